// Reads logs with stock Yjs: JSON lines {course, kind, updates} in, {course, kind, count, pending, edits, latest, state} out.
// pending: the first update after which Yjs waits for something that no earlier update held; null when there is none.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const Y = createRequire(new URL('../conformance/package.json', import.meta.url))('yjs')

for await (const line of createInterface({ input: process.stdin })) {
  const { course, kind, updates } = JSON.parse(line)
  const doc = new Y.Doc()
  let pending = null
  updates.forEach((update, place) => {
    Y.applyUpdate(doc, Buffer.from(update, 'base64'))
    if (pending === null && (doc.store.pendingStructs !== null || doc.store.pendingDs !== null)) pending = place
  })
  console.log(JSON.stringify({
    course,
    kind,
    count: updates.length,
    pending,
    edits: [...doc.getMap('edits').keys()],
    latest: doc.getMap('latest').toJSON(),
    state: Object.fromEntries(Y.decodeStateVector(Y.encodeStateVector(doc)))
  }))
}
