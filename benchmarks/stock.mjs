// Opens a document in a fresh stock Yjs and prints as JSON what that took: `node stock.mjs UPDATES [OTHERS]`.
//
// Both files hold updates, each with its length (varUint) in front. With others: also whether it is what those make.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { Reader } from '../tests/faults/pipe.mjs'

const Y = createRequire(new URL('../tests/conformance/package.json', import.meta.url))('yjs')

const updatesOf = file => {
  const reader = new Reader(readFileSync(file))
  const updates = []
  while (reader.at < reader.data.length) updates.push(reader.bytes())
  return updates
}

const open = updates => {
  const doc = new Y.Doc()
  for (const update of updates) Y.applyUpdate(doc, update)
  return doc
}

const sorted = value => value !== null && typeof value === 'object' && !Array.isArray(value)
  ? Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, inner]) => [key, sorted(inner)])
  : value

/** What a document shows, how far it has got with some clients' edits, and whether it lacks any. */
const shown = (doc, clients) => JSON.stringify([
  ['nodes', 'layout', 'edges'].map(name => sorted(doc.getMap(name).toJSON())),
  clients.map(client => Y.getState(doc.store, client)),
  doc.store.pendingStructs === null && doc.store.pendingDs === null
])

/** Whether a document holds what the others make. It may have another client: a course begins with the server's own edit. */
const holds = (doc, others) => {
  const expected = open(others)
  const clients = [...expected.store.clients.keys()]
  return shown(expected, clients) === shown(doc, clients)
}

const [file, others] = process.argv.slice(2)
const updates = updatesOf(file)
const before = process.memoryUsage().rss
const started = performance.now()
const doc = open(updates)
const seconds = (performance.now() - started) / 1000
const memory = process.memoryUsage().rss - before
console.log(JSON.stringify({ seconds, memory, same: others === undefined || holds(doc, updatesOf(others)) }))
