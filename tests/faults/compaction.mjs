// Compares logs with the histories they came from: what stock Yjs shows, its clocks, and what it holds as deleted.
//
// Request, per history: its updates; then checks of a prefix's length and the updates of a log. Answer per history: the first
// difference, or nothing.
import { view, Y } from './clients.mjs'
import { Reader, serve, Writer } from './pipe.mjs'

const sorted = map => JSON.stringify([...map].sort(([a], [b]) => a - b))

const deleted = doc => sorted([...Y.createDeleteSetFromStructStore(doc.store).clients].map(([client, items]) =>
  [client, items.map(({ clock, len }) => [clock, len])]))

const clocks = doc => sorted(Y.decodeStateVector(Y.encodeStateVector(doc)))

const difference = (expected, found) => {
  if (found.store.pendingStructs !== null || found.store.pendingDs !== null) return 'something is pending'
  if (clocks(found) !== clocks(expected)) return `other clocks\n${clocks(found)}\n${clocks(expected)}`
  if (deleted(found) !== deleted(expected)) return `other deletes\n${deleted(found)}\n${deleted(expected)}`
  if (view(found) !== view(expected)) return `other content\n${view(found)}\n${view(expected)}`
  return ''
}

/** All in one transaction: Yjs cleans formats up at the end of each, and what it deletes so is in no update. */
const loaded = updates => {
  const doc = new Y.Doc()
  doc.transact(() => { for (const update of updates) Y.applyUpdate(doc, update) }, 'load', false)
  return doc
}

serve(request => {
  const reader = new Reader(request)
  const answer = new Writer()
  const list = () => Array.from({ length: reader.number() }, () => reader.bytes())
  for (let histories = reader.number(); histories > 0; histories--) {
    const updates = list()
    let error = ''
    for (let checks = reader.number(), check = 0; check < checks; check++) {
      const length = reader.number()
      const found = loaded(list())
      const different = error === '' ? difference(loaded(updates.slice(0, length)), found) : ''
      if (different !== '') error = `check ${check} after ${length} updates: ${different}`
    }
    answer.text(error)
  }
  return answer.done()
})
