// Turns an editing trace or a course into the updates that stock Yjs makes of it.
//
// Request: JSON {file, writers, turn, limit}. Answer: the number of writers and their client ids; the number of updates; each with
// its writer, the clock of that writer behind it, what it needs of others (how many, then writer and clock) and its bytes; then
// the content at the end as JSON.
import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { Y } from '../tests/conformance/driver/providers.mjs'
import { Reader, serve, Writer } from '../tests/faults/pipe.mjs'

const TEXT = 'text'
const FIRST_CLIENT = 1_000_000_007

class Author {
  constructor (number) {
    this.doc = new Y.Doc()
    this.doc.clientID = FIRST_CLIENT + 7919 * number
    this.made = []
    this.doc.on('update', (update, origin) => { if (origin !== 'other') this.made.push(update) })
  }

  get clock () { return Y.getState(this.doc.store, this.doc.clientID) }

  hear (updates) {
    this.doc.transact(() => { for (const update of updates) Y.applyUpdate(this.doc, update, 'other') }, 'other')
  }

  /** The one update of an edit; null when it changes nothing. */
  edit (change) {
    this.doc.transact(change)
    return this.made.length === 0 ? null : this.made.pop()
  }
}

const patch = (text, patches) => {
  for (const [at, deleted, inserted] of patches) {
    if (deleted > 0) text.delete(at, deleted)
    if (inserted !== '') text.insert(at, inserted)
  }
}

class Script {
  constructor (writers) {
    this.authors = Array.from({ length: writers }, (_, number) => new Author(number))
    this.steps = []
  }

  edit (writer, change, needs = []) {
    const update = this.authors[writer].edit(change)
    if (update !== null) this.steps.push({ writer, clock: this.authors[writer].clock, needs, update })
  }

  /** What a fresh document holds that has taken every update in order. */
  whole () {
    const doc = new Y.Doc()
    for (const { update } of this.steps) Y.applyUpdate(doc, update)
    if (doc.store.pendingStructs !== null || doc.store.pendingDs !== null) throw new Error('something is pending')
    return doc
  }
}

/** One author's text, typed in turns by several writers, each of whom has what came before its turn. */
const sequential = (txns, writers, turn) => {
  const script = new Script(writers)
  txns.forEach(({ patches }, nth) => {
    const writer = Math.floor(nth / turn) % writers
    const author = script.authors[writer]
    const needs = []
    if (nth > 0 && nth % turn === 0 && writers > 1) {
      const before = (writer + writers - 1) % writers
      const last = script.authors[before]
      author.hear([Y.encodeStateAsUpdate(last.doc, Y.encodeStateVector(author.doc))])
      script.authors.forEach((other, number) => {
        if (number !== writer && other.clock > 0) needs.push([number, other.clock])
      })
    }
    script.edit(writer, () => patch(author.doc.getText(TEXT), patches), needs)
  })
  return script
}

/** Several authors at once, each of whom had what the trace says when they typed. */
const concurrent = (txns, writers) => {
  const script = new Script(writers)
  const made = script.authors.map(() => []) // the numbers of each author's updates
  const heard = script.authors.map(() => script.authors.map(() => 0)) // how many of each other one
  const known = [] // by change: how many updates of each author it builds on
  for (const { parents, agent, patches } of txns) {
    const knows = script.authors.map((_, other) => Math.max(0, ...parents.map(parent => known[parent][other])))
    const author = script.authors[agent]
    const fresh = []
    const needs = []
    knows.forEach((count, other) => {
      if (other === agent || count <= heard[agent][other]) return
      fresh.push(...made[other].slice(heard[agent][other], count))
      heard[agent][other] = count
      needs.push([other, script.steps[made[other][count - 1]].clock])
    })
    // In the order in which they were made: what comes too early would stay pending, which is slow.
    author.hear(fresh.sort((a, b) => a - b).map(number => script.steps[number].update))
    const number = script.steps.length
    script.edit(agent, () => patch(author.doc.getText(TEXT), patches), needs)
    if (script.steps.length > number) made[agent].push(number)
    known.push(knows.map((count, other) => other === agent ? made[agent].length : count))
  }
  return script
}

const nodeOf = ({ kind, parent, order, minutes, title }) => new Y.Map(Object.entries(
  { kind, life: 1, parent: parent ?? '', ord: order, status: 'draft', minutes, title: new Y.Text(title), desc: new Y.Text() }))

/** A course that all writers build at once: its nodes in turn, their descriptions, then its edges. */
const course = ({ nodes, edges }, writers, limit) => {
  const script = new Script(writers)
  const edits = [
    ...nodes.flatMap((node, nth) => [
      [nth, doc => doc.getMap('nodes').set(node.id, nodeOf(node))],
      [nth, doc => doc.getMap('nodes').get(node.id).get('desc').insert(0, node.description)],
      [nth, doc => doc.getMap('layout').set(`flow/${node.id}`, [nth % 40 * 220, Math.floor(nth / 40) * 120])]
    ]),
    ...edges.map(({ type, from, to }, nth) => [nth, doc => doc.getMap('edges').set(`${type}:${from}>${to}`, { type, from, to })])
  ]
  for (const [nth, change] of edits.slice(0, limit)) {
    const writer = nth % writers
    script.edit(writer, () => change(script.authors[writer].doc))
  }
  return script
}

const contentOf = doc => Object.fromEntries([
  [TEXT, doc.getText(TEXT).toString()], ...['nodes', 'layout', 'edges'].map(name => [name, doc.getMap(name).toJSON()])
])

/** Throws when the updates do not make what the file says. */
const verify = (content, source) => {
  if (source.endContent !== undefined) {
    if (content.text !== source.endContent) throw new Error('another text than the trace ends with')
    return
  }
  if (Object.keys(content.edges).length !== source.edges.length) throw new Error('other edges than the course has')
  for (const { id, title, description } of source.nodes) {
    if (content.nodes[id].title !== title || content.nodes[id].desc !== description) throw new Error(`another node than the course has: ${id}`)
  }
}

const scriptOf = (source, { writers, turn, limit }) => {
  if (source.nodes !== undefined) return course(source, writers, limit)
  const txns = source.txns.slice(0, limit)
  return source.kind === 'concurrent' ? concurrent(txns, source.numAgents) : sequential(txns, writers, turn)
}

serve(request => {
  const asked = JSON.parse(new Reader(request).bytes())
  const data = readFileSync(asked.file)
  const source = JSON.parse(asked.file.endsWith('.gz') ? gunzipSync(data) : data)
  const script = scriptOf(source, asked)
  const content = contentOf(script.whole())
  const all = source.txns === undefined ? 3 * source.nodes.length + source.edges.length : source.txns.length
  if (asked.limit >= all) verify(content, source)
  const answer = new Writer().number(script.authors.length)
  for (const { doc } of script.authors) answer.number(doc.clientID)
  answer.number(script.steps.length)
  for (const { writer, clock, needs, update } of script.steps) {
    answer.number(writer).number(clock).number(needs.length)
    for (const [other, least] of needs) answer.number(other).number(least)
    answer.bytes(update)
  }
  return answer.text(JSON.stringify(content)).done()
})
