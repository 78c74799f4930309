// Applies updates to stock Yjs documents: none may throw, and none may leave anything pending.
//
// First request: the foundations, each a list of updates. Then: pairs of foundation and update; the answer has a text for each,
// empty when all is well, else what is wrong; the state vector; and whether a surrogate pair was parted.
import { Y } from './clients.mjs'
import { Reader, serve, Writer } from './pipe.mjs'

let foundations = null

const loaded = updates => {
  const doc = new Y.Doc()
  for (const update of updates) Y.applyUpdate(doc, update)
  return doc
}

/** Whether a surrogate pair was parted: Yjs puts U+FFFD in the place of each half. */
const isParted = updates => {
  const doc = new Y.Doc({ gc: false })
  for (const update of updates) Y.applyUpdate(doc, update)
  return [...doc.store.clients.values()].some(structs => structs.some(({ content }) => content?.str?.includes('\ufffd')))
}

const outcome = (foundation, update) => {
  try {
    const doc = loaded(foundation)
    Y.applyUpdate(doc, update)
    if (doc.store.pendingStructs || doc.store.pendingDs) return ['something is pending', new Uint8Array()]
    loaded([Y.encodeStateAsUpdate(doc)])
    return ['', Y.encodeStateVector(doc)]
  } catch (error) {
    return [String(error.stack).split('\n').slice(0, 3).join(' | '), new Uint8Array()]
  }
}

serve(request => {
  const reader = new Reader(request)
  const answer = new Writer()
  if (foundations === null) {
    foundations = Array.from({ length: reader.number() }, () => Array.from({ length: reader.number() }, () => reader.bytes()))
  } else {
    for (let left = reader.number(); left > 0; left--) {
      const [foundation, update] = [foundations[reader.number()], reader.bytes()]
      const [error, vector] = outcome(foundation, update)
      answer.text(error).bytes(vector).number(error === '' && isParted([...foundation, update]) ? 1 : 0)
    }
  }
  return answer.done()
})
