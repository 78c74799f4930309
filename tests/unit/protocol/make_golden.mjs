// Writes golden.json: updates, state vectors and contents made by stock Yjs, from a fixed seed.
//
// Run it where `yjs` 13 can be imported:  node make_golden.mjs > golden.json
// Every history: {name, updates: [base64 in the order they were emitted], deps: [...], state, vector, content}.
import * as Y from 'yjs'

let seed = 42
const random = () => { // mulberry32
  seed = (seed + 0x6D2B79F5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296
}
const below = n => Math.floor(random() * n)
const pick = list => list[below(list.length)]
const base64 = bytes => Buffer.from(bytes).toString('base64')

const content = doc => ({
  text: doc.getText('text').toDelta().map(part => typeof part.insert === 'object' && part.insert instanceof Y.AbstractType ? { type: part.insert.toJSON() } : part),
  map: doc.getMap('map').toJSON(),
  list: doc.getArray('list').toArray().map(value => value instanceof Y.Doc ? { doc: value.guid } : value instanceof Y.AbstractType ? value.toJSON() : value instanceof Uint8Array ? { bytes: base64(value) } : value),
  xml: doc.getXmlFragment('xml').toString()
})

const words = ['a', 'lesson', 'Größe', 'noch ein Wort', '数学', ' ']
const astral = ['😀', 'x😀y', '👩‍🏫']
const values = () => pick([1, -7, 2 ** 40, 0.5, -1e300, true, false, null, 'text', 'é', [1, [2, { a: 'b' }]], { x: 1.25, y: [null] }, new Uint8Array([1, 2, 3])])

const edits = emoji => ({
  insert: doc => { const t = doc.getText('text'); t.insert(below(t.length + 1), pick(emoji ? [...words, ...astral] : words)) },
  type: doc => { const t = doc.getText('text'); for (let at = below(t.length + 1), n = 0; n < 4; n++) t.insert(at + n, pick(['a', 'b', 'c'])) },
  remove: doc => { const t = doc.getText('text'); if (t.length) { const at = below(t.length); t.delete(at, Math.min(1 + below(4), t.length - at)) } },
  format: doc => { const t = doc.getText('text'); if (t.length > 2) t.format(below(t.length - 2), 2, pick([{ bold: true }, { bold: null }, { link: { href: 'é' } }])) },
  embed: doc => { const t = doc.getText('text'); t.insertEmbed(below(t.length + 1), pick([{ image: 'a.png' }, { n: [1, 2] }])) },
  set: doc => doc.getMap('map').set(pick(['a', 'b', 'c']), pick([values, () => 10n ** 15n])()),
  unset: doc => doc.getMap('map').delete(pick(['a', 'b', 'c'])),
  nest: doc => {
    const made = pick([() => new Y.Map([['k', 1], ['l', 'm']]), () => new Y.Array(), () => new Y.Text('inner')])()
    doc.getMap('map').set(pick(['d', 'e']), made)
  },
  inside: doc => {
    const inner = doc.getMap('map').get(pick(['d', 'e']))
    if (inner instanceof Y.Map) inner.set(pick(['k', 'l', 'n']), pick([values, () => new Y.Map([['deep', 1]])])())
    else if (inner instanceof Y.Text) inner.insert(below(inner.length + 1), pick(words))
    else if (inner instanceof Y.Array) inner.push([values(), values()])
  },
  push: doc => { const l = doc.getArray('list'); l.insert(below(l.length + 1), [values(), values()]) },
  pull: doc => { const l = doc.getArray('list'); if (l.length) l.delete(below(l.length), 1) },
  subdoc: doc => doc.getArray('list').push([new Y.Doc({ guid: `sub-${below(1e6)}`, meta: { n: 1 } })]),
  xml: doc => {
    const x = doc.getXmlFragment('xml')
    const element = new Y.XmlElement(pick(['p', 'div']))
    x.insert(below(x.length + 1), [element])
    element.setAttribute('id', pick(words))
    element.insert(0, [new Y.XmlText(pick(words)), new Y.XmlElement('b')])
  },
  together: doc => doc.transact(() => { doc.getMap('map').set('a', 1); doc.getMap('map').set('a', 2); doc.getText('text').insert(0, 'zz'); doc.getText('text').delete(0, 1) })
})

const history = (name, steps, clients, { emoji = false, gc = true, undo = false } = {}) => {
  const updates = []
  const docs = Array.from({ length: clients }, (_, n) => {
    const doc = new Y.Doc({ gc })
    doc.clientID = below(2 ** 32)
    doc.on('update', (update, origin) => { if (origin !== 'sync') updates.push(base64(update)) })
    return doc
  })
  const undos = undo ? docs.map(doc => new Y.UndoManager([doc.getText('text'), doc.getMap('map')], { captureTimeout: 0 })) : []
  const kinds = edits(emoji)
  for (let step = 0; step < steps; step++) {
    const n = below(clients)
    if (undo && below(4) === 0) pick([() => undos[n].undo(), () => undos[n].redo()])()
    else pick(Object.values(kinds))(docs[n])
    if (below(5) === 0) { // one client brings another up to date: late, so that edits are concurrent
      const other = docs[below(clients)]
      Y.applyUpdate(other, Y.encodeStateAsUpdate(docs[n], Y.encodeStateVector(other)), 'sync')
    }
  }
  const all = new Y.Doc({ gc })
  for (const update of updates) Y.applyUpdate(all, Buffer.from(update, 'base64'))
  for (const doc of docs) Y.applyUpdate(all, Y.encodeStateAsUpdate(doc))
  if (all.store.pendingStructs || all.store.pendingDs) throw new Error('pending')
  return {
    name,
    emoji,
    updates,
    merged: base64(Y.mergeUpdates(updates.map(update => Buffer.from(update, 'base64')))),
    states: docs.map(doc => base64(Y.encodeStateAsUpdate(doc))),
    state: base64(Y.encodeStateAsUpdate(all)),
    vector: base64(Y.encodeStateVector(all)),
    content: content(all)
  }
}

process.stdout.write(JSON.stringify([
  history('one writer', 60, 1),
  history('three writers', 90, 3),
  history('three writers with emoji', 90, 3, { emoji: true }),
  history('two writers who undo', 80, 2, { undo: true }),
  history('two writers without garbage collection', 60, 2, { gc: false })
], (_, value) => typeof value === 'bigint' ? `${value}n` : value) + '\n')
