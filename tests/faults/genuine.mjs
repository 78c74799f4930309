// Updates of random histories, in the order in which they were made: each is closed when those before it are known.
//
// Request: first seed, histories, steps of each. Answer, per history: the updates; all of them merged by stock Yjs; each
// client's whole state; the state vector of a document that has everything.
import { Author, Chance, Y } from './clients.mjs'
import { Reader, serve, Writer } from './pipe.mjs'

const history = (seed, steps, answer) => {
  const chance = new Chance(seed)
  const updates = []
  const authors = Array.from({ length: 1 + chance.below(4) }, () =>
    new Author(chance, update => updates.push(update), { undo: chance.odds(0.5), gc: chance.odds(0.8) }))
  for (let step = 0; step < steps; step++) {
    const author = chance.pick(authors)
    author.edit()
    if (chance.odds(0.2)) {
      const { doc } = chance.pick(authors)
      Y.applyUpdate(doc, Y.encodeStateAsUpdate(author.doc, Y.encodeStateVector(doc)), 'server')
    }
  }
  const states = authors.map(({ doc }) => Y.encodeStateAsUpdate(doc))
  const whole = new Y.Doc()
  for (const update of [...updates, ...states]) Y.applyUpdate(whole, update)
  if (whole.store.pendingStructs || whole.store.pendingDs) throw new Error(`history ${seed} leaves something pending`)
  answer.number(updates.length)
  for (const update of updates) answer.bytes(update)
  answer.bytes(Y.mergeUpdates(updates)).number(states.length)
  for (const state of states) answer.bytes(state)
  answer.bytes(Y.encodeStateVector(whole))
}

serve(request => {
  const reader = new Reader(request)
  const [seed, histories, steps] = [reader.number(), reader.number(), reader.number()]
  const answer = new Writer()
  for (let number = 0; number < histories; number++) history(seed + number, steps, answer)
  return answer.done()
})
