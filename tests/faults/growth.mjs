// Three stock clients that edit one course for a long time: typing, property changes, moves, now and then nodes and edges.
//
// Commands: edit (how many edits at least: their updates, in an order that integrates), state (a stock document of everything),
// compare (updates of a log: what differs in a stock document made of them).
import { Chance, Y } from './clients.mjs'
import { Reader, serve, Writer } from './pipe.mjs'

const EDIT = 0; const STATE = 1; const COMPARE = 2
const AUTHORS = 3
const NODES = 200
const SITTING = 20_000 // edits after which one author closes the page and comes back
const LETTERS = 'etaoin shrdlu cmfwypvbgkqjxz 数é'
const MOST_LETTERS = { title: 60, desc: 1500 }

const chance = new Chance(1)
const id = () => Array.from({ length: 12 }, () => 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'[chance.below(62)]).join('')

const newNode = kind => new Y.Map([
  ['kind', kind], ['by', 'u_01'], ['at', 1700000000000], ['life', 1], ['parent', ''], ['ord', 'a0'],
  ['title', new Y.Text('New node')], ['desc', new Y.Text()], ['status', 'draft'], ['minutes', 30]
])

class Author {
  constructor () {
    this.out = []
    this.open(null)
  }

  /** Opens the page: a new document, a new client id. */
  open (state) {
    this.doc = new Y.Doc()
    this.doc.clientID = chance.below(2 ** 32)
    if (state !== null) Y.applyUpdate(this.doc, state, 'server')
    this.doc.on('update', (update, origin) => { if (origin !== 'server') this.out.push(update) })
  }

  get nodes () { return this.doc.getMap('nodes') }

  addNode () {
    const key = id()
    this.doc.transact(() => {
      this.nodes.set(key, newNode(chance.pick(['lesson', 'video', 'quiz', 'assignment'])))
      this.doc.getMap('layout').set(`flow/${key}`, [chance.below(2000), chance.below(2000)])
    })
  }

  type (node) {
    const name = chance.pick(['title', 'desc', 'desc'])
    const text = node.get(name)
    if (text.length > MOST_LETTERS[name]) return text.delete(0, Math.floor(text.length / 2))
    let at = chance.odds(0.5) ? text.length : chance.below(text.length + 1)
    for (let letters = 5 + chance.below(40); letters > 0; letters--) {
      if (at > 0 && chance.odds(0.08)) text.delete(--at, 1)
      else text.insert(at++, LETTERS[chance.below(LETTERS.length)])
    }
  }

  property (node) {
    const change = chance.below(5)
    if (change === 0) node.set('status', chance.pick(['draft', 'review', 'ready']))
    else if (change === 1) for (let steps = chance.below(20); steps >= 0; steps--) node.set('minutes', chance.below(240)) // a slider
    else if (change === 2) node.set('color', `#${chance.below(2 ** 24).toString(16)}`)
    else if (change === 3) node.set('assignee', `u_${chance.below(20)}`)
    else {
      const tag = `tag:${chance.pick(['python', 'loops', 'basics', 'hard'])}`
      node.has(tag) ? node.delete(tag) : node.set(tag, true)
    }
  }

  move (keys) {
    const layout = this.doc.getMap('layout')
    const moved = chance.odds(0.8) ? 1 : 2 + chance.below(8)
    for (let drops = 1 + chance.below(4); drops > 0; drops--) {
      this.doc.transact(() => {
        for (let n = 0; n < moved; n++) layout.set(`flow/${keys[(drops + n) % keys.length]}`, [chance.below(4000) / 2, chance.below(4000) / 2])
      })
    }
  }

  connect (keys) {
    const edges = this.doc.getMap('edges')
    const [from, to] = [chance.pick(keys), chance.pick(keys)]
    const key = `pre:${from}>${to}`
    edges.has(key) ? edges.delete(key) : edges.set(key, { type: 'pre', from, to, by: 'u_01', at: 1700000000000 })
  }

  edit () {
    const keys = [...this.nodes.keys()]
    if (keys.length < NODES) return this.addNode()
    const key = chance.pick(keys)
    const node = this.nodes.get(key)
    const kind = chance.random()
    if (kind < 0.16) this.type(node)
    else if (kind < 0.60) this.property(node)
    else if (kind < 0.95) this.move([key, ...Array.from({ length: 8 }, () => chance.pick(keys))])
    else if (kind < 0.985) this.connect(keys)
    else this.doc.transact(() => { // what the server purges
      this.nodes.delete(key)
      this.doc.getMap('layout').delete(`flow/${key}`)
    })
  }
}

const authors = Array.from({ length: AUTHORS }, () => new Author())
let edits = 0
let sittings = 0

/** Everyone edits at once, then hears of the others. */
const round = () => {
  for (const author of authors) author.edit()
  const made = authors.map(author => author.out.splice(0))
  authors.forEach((author, own) => {
    made.forEach((updates, other) => {
      if (other !== own) author.doc.transact(() => { for (const update of updates) Y.applyUpdate(author.doc, update, 'server') }, 'server')
    })
  })
  const updates = made.flat()
  edits += updates.length
  if (Math.floor(edits / SITTING) > sittings) {
    const author = authors[++sittings % AUTHORS]
    author.open(Y.encodeStateAsUpdate(authors[(sittings + 1) % AUTHORS].doc))
  }
  return updates
}

const shown = doc => JSON.stringify(['nodes', 'layout', 'edges'].map(name =>
  Object.entries(doc.getMap(name).toJSON()).sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, value]) =>
    [key, Array.isArray(value) || typeof value !== 'object' ? value : Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))])))

const difference = updates => {
  const doc = new Y.Doc()
  for (const update of updates) Y.applyUpdate(doc, update)
  if (doc.store.pendingStructs !== null || doc.store.pendingDs !== null) return 'something is pending'
  if (authors.some(author => shown(author.doc) !== shown(authors[0].doc))) return 'the clients differ'
  if (shown(doc) !== shown(authors[0].doc)) return 'other content'
  const [known, expected] = [doc, authors[0].doc].map(each => JSON.stringify([...Y.decodeStateVector(Y.encodeStateVector(each))].sort(([a], [b]) => a - b)))
  return known === expected ? '' : 'other clocks'
}

serve(request => {
  const reader = new Reader(request)
  const command = reader.number()
  const answer = new Writer()
  if (command === EDIT) {
    const updates = []
    for (const wanted = reader.number(); updates.length < wanted;) updates.push(...round())
    answer.number(updates.length)
    for (const update of updates) answer.bytes(update)
  } else if (command === STATE) {
    const state = Y.encodeStateAsUpdate(authors[0].doc)
    const doc = new Y.Doc()
    Y.applyUpdate(doc, state)
    answer.bytes(state).bytes(Y.encodeStateAsUpdate(doc))
  } else if (command === COMPARE) {
    answer.text(difference(Array.from({ length: reader.number() }, () => reader.bytes())))
  }
  return answer.done()
})
