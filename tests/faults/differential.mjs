// Many histories of several stock clients at once, in lockstep with a server on the other side of the pipe.
//
// Commands: begin (seeds), round (deliveries in; edits; messages out), settle and late (no edits), check (documents to compare).
import { Author, Chance, view, Y } from './clients.mjs'
import { Reader, serve, Writer } from './pipe.mjs'

const BEGIN = 0; const ROUND = 1; const SETTLE = 2; const LATE = 3; const CHECK = 4
const OPEN = 0; const CLOSE = 1; const UPDATE = 2; const STEP1 = 3; const STEP2 = 4
const LOST = 0.02

const hasPending = doc => doc.store.pendingStructs !== null || doc.store.pendingDs !== null

const vector = doc => JSON.stringify([...Y.decodeStateVector(Y.encodeStateVector(doc))].sort(([a], [b]) => a - b))

class Client {
  constructor (history, number, chance) {
    this.number = number
    this.history = history
    this.online = false
    this.inbox = []
    this.author = new Author(chance, update => this.send(UPDATE, update), { undo: chance.odds(0.4), gc: chance.odds(0.85) })
    this.doc = this.author.doc
  }

  send (kind, bytes) {
    const { chance, out, losing } = this.history
    if (this.online && !(losing && kind === UPDATE && chance.odds(LOST))) out.push([this.number, kind, bytes])
  }

  connect () {
    this.online = true
    this.inbox = []
    this.send(OPEN, new Uint8Array())
    this.send(STEP1, Y.encodeStateVector(this.doc))
  }

  /** The line goes dead: some of what was written last may never have left. */
  leave () {
    const { chance, out } = this.history
    this.send(CLOSE, new Uint8Array())
    this.online = false
    this.inbox = []
    let lost = chance.odds(0.5) ? chance.below(4) : 0
    for (let at = out.length - 2; at >= 0 && lost > 0 && out[at][1] === UPDATE; at--) {
      if (out[at][0] === this.number) {
        out.splice(at, 1)
        lost--
      }
    }
  }

  read (count) {
    for (const [kind, bytes] of this.inbox.splice(0, count)) {
      if (kind === STEP1) this.send(STEP2, Y.encodeStateAsUpdate(this.doc, bytes))
      else Y.applyUpdate(this.doc, bytes, 'server')
    }
  }
}

class History {
  constructor (seed) {
    this.chance = new Chance(seed)
    this.out = []
    this.losing = true
    this.edits = 0
    this.error = ''
    const clients = 2 + this.chance.below(3)
    this.clients = Array.from({ length: clients }, (_, number) => new Client(this, number, this.chance))
    this.late = clients > 2 && this.chance.odds(0.6) ? this.clients[clients - 1] : null
    this.leavesAt = 1 + this.chance.below(5)
    this.rounds = 0
  }

  get others () { return this.clients.filter(client => client !== this.late) }

  deliver (deliveries) {
    for (const [number, kind, bytes] of deliveries) {
      const client = this.clients[number]
      if (kind === CLOSE) client.connect()
      else if (client.online && !(this.losing && kind === UPDATE && this.chance.odds(LOST))) client.inbox.push([kind, bytes])
    }
  }

  round () {
    const { chance, clients, late } = this
    if (++this.rounds === this.leavesAt && late?.online) late.leave()
    for (const client of clients) client.read(chance.odds(0.75) ? Infinity : chance.below(client.inbox.length + 1))
    for (let edits = 1 + chance.below(8); edits > 0; edits--) {
      const client = chance.pick(clients)
      const isAway = client === late && this.rounds >= this.leavesAt
      if (!client.online && !isAway && chance.odds(0.4)) client.connect()
      else if (client.online && chance.odds(0.05)) client.leave()
      client.author.edit()
      this.edits++
    }
  }

  settle (all) {
    if (this.losing || all) {
      this.losing = false
      for (const client of all ? this.clients : this.others) client.connect()
    }
    for (const client of this.clients) client.read(Infinity)
  }

  check (documents, isLast) {
    const [first, ...others] = isLast ? this.clients : this.others
    const [shown, known] = [view(first.doc), vector(first.doc)]
    const compare = (name, doc) => {
      if (vector(doc) !== known) throw new Error(`${name}: other clocks\n${vector(doc)}\n${known}`)
      if (view(doc) !== shown) throw new Error(`${name}: other content\n${view(doc)}\n${shown}`)
    }
    for (const client of others) compare(`client ${client.number}`, client.doc)
    if (isLast && this.clients.some(({ doc }) => hasPending(doc))) throw new Error('a client holds something pending')
    for (const [name, updates] of documents) {
      const doc = new Y.Doc()
      updates.forEach((update, place) => {
        Y.applyUpdate(doc, update)
        if (hasPending(doc)) throw new Error(`${name}: something is pending after update ${place}`)
      })
      compare(name, doc)
    }
  }
}

let histories = []

const guarded = (history, work) => {
  try {
    if (history.error === '') work()
  } catch (error) {
    history.error = error.stack
  }
}

const advance = (command, reader) => {
  for (const history of histories) {
    const deliveries = Array.from({ length: reader.number() }, () => [reader.number(), reader.number(), reader.bytes()])
    guarded(history, () => {
      history.deliver(deliveries)
      command === ROUND ? history.round() : history.settle(command === LATE)
    })
  }
}

const check = reader => {
  const isLast = reader.number() === 1
  for (const history of histories) {
    const documents = Array.from({ length: reader.number() }, () =>
      [reader.bytes().toString(), Array.from({ length: reader.number() }, () => reader.bytes())])
    guarded(history, () => history.check(documents, isLast))
  }
}

serve(request => {
  const reader = new Reader(request)
  const command = reader.number()
  const answer = new Writer()
  if (command === BEGIN) histories = Array.from({ length: reader.number() }, () => new History(reader.number()))
  else if (command === CHECK) {
    check(reader)
    for (const { error, edits } of histories) answer.text(error).number(edits)
  } else {
    advance(command, reader)
    for (const { out } of histories) {
      answer.number(out.length)
      for (const [client, kind, bytes] of out.splice(0)) answer.number(client).number(kind).bytes(bytes)
    }
  }
  return answer.done()
})
