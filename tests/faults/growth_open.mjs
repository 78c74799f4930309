// Opens a document in a fresh stock Yjs and prints as JSON what that took: `node growth_open.mjs STATE`.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const Y = createRequire(new URL('../conformance/package.json', import.meta.url))('yjs')
const state = readFileSync(process.argv[2])
const before = process.memoryUsage().rss
const started = performance.now()
const doc = new Y.Doc()
Y.applyUpdate(doc, state)
const seconds = (performance.now() - started) / 1000
console.log(JSON.stringify({ seconds, memory: process.memoryUsage().rss - before, clients: doc.store.clients.size }))
