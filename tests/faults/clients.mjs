// Random editing with stock Yjs, every choice taken from a seed.
import { Y } from '../conformance/driver/providers.mjs'

/** A seeded source of choices (mulberry32). */
export class Chance {
  constructor (seed) {
    this.state = seed | 0
  }

  random () {
    this.state = (this.state + 0x6D2B79F5) | 0
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }

  below (n) { return Math.floor(this.random() * n) }
  pick (list) { return list[this.below(list.length)] }
  odds (probability) { return this.random() < probability }
}

const WORDS = ['a', 'lesson', 'Größe', 'noch ein Wort', '数学', ' ', '😀', 'x😀y', '👩‍🏫', '🎓🎓']
const KEYS = ['a', 'b', 'c', 'd']
const FORMATS = [{ bold: true }, { bold: null }, { link: { href: 'é' } }, { link: null }, { color: '#fff', bold: true }]

const plain = chance => chance.pick([
  1, -7, 2 ** 40, 0.5, -1e300, true, false, null, 'text', 'é😀', [1, [2, { a: 'b' }]], { x: 1.25, y: [null] }, new Uint8Array([1, 2, 3])
])

const shared = chance => chance.pick([
  () => new Y.Map([['k', 1], ['l', 'm']]),
  () => Y.Array.from([1, 'two', null]),
  () => new Y.Text('inner 😀 text')
])()

const insertText = (text, chance) => text.insert(chance.below(text.length + 1), chance.pick(WORDS))

const removeText = (text, chance) => {
  if (text.length === 0) return
  const at = chance.below(text.length)
  text.delete(at, Math.min(1 + chance.below(5), text.length - at))
}

/** The places between whole characters. A format that changes nothing parts a surrogate pair in its author's copy alone. */
const wholeCharacters = text => {
  const edges = [0]
  for (const { insert } of text.toDelta()) {
    for (const character of typeof insert === 'string' ? insert : [null]) edges.push(edges[edges.length - 1] + (character?.length ?? 1))
  }
  return edges
}

/** A type nested somewhere below the map, or the map itself. */
const inside = (doc, chance) => {
  let type = doc.getMap('map')
  for (let depth = 0; depth < 4; depth++) {
    const children = type instanceof Y.Map ? [...type.values()] : type instanceof Y.Array ? type.toArray() : []
    const types = children.filter(child => child instanceof Y.AbstractType)
    if (types.length === 0 || chance.odds(0.25)) return type
    type = chance.pick(types)
  }
  return type
}

const EDITS = [
  (doc, chance) => insertText(doc.getText('text'), chance),
  (doc, chance) => insertText(doc.getText('text'), chance),
  (doc, chance) => { // typing, a letter at a time
    const text = doc.getText('text')
    for (let at = chance.below(text.length + 1), n = chance.below(6); n >= 0; n--) text.insert(at++, chance.pick(['a', 'b', '😀']))
  },
  (doc, chance) => removeText(doc.getText('text'), chance),
  (doc, chance) => removeText(doc.getText('text'), chance),
  (doc, chance) => {
    const text = doc.getText('text')
    const edges = wholeCharacters(text)
    const from = chance.below(edges.length)
    const to = Math.min(from + 1 + chance.below(3), edges.length - 1)
    if (from < to) text.format(edges[from], edges[to] - edges[from], chance.pick(FORMATS))
  },
  (doc, chance) => doc.getText('text').insertEmbed(chance.below(doc.getText('text').length + 1), chance.pick([{ image: 'a.png' }, { n: [1, 2] }])),
  (doc, chance) => doc.getMap('map').set(chance.pick(KEYS), plain(chance)),
  (doc, chance) => doc.getMap('map').delete(chance.pick(KEYS)),
  (doc, chance) => doc.getMap('map').set(chance.pick(['d', 'e', 'f']), shared(chance)),
  (doc, chance) => {
    const type = inside(doc, chance)
    const value = () => chance.odds(0.3) ? shared(chance) : plain(chance)
    if (type instanceof Y.Text) chance.odds(0.6) ? insertText(type, chance) : removeText(type, chance)
    else if (type instanceof Y.Map) chance.odds(0.8) ? type.set(chance.pick(['k', 'l', 'n']), value()) : type.delete(chance.pick(['k', 'l', 'n']))
    else if (type.length > 0 && chance.odds(0.3)) type.delete(chance.below(type.length), 1)
    else type.insert(chance.below(type.length + 1), [value(), value()])
  },
  (doc, chance) => doc.getArray('list').insert(chance.below(doc.getArray('list').length + 1), [plain(chance), plain(chance), plain(chance)]),
  (doc, chance) => {
    const list = doc.getArray('list')
    if (list.length > 0) list.delete(chance.below(list.length), 1)
  },
  (doc, chance) => doc.getArray('list').push([new Y.Doc({ guid: `sub-${chance.below(1e6)}`, meta: { n: 1 } })]),
  (doc, chance) => {
    const xml = doc.getXmlFragment('xml')
    const element = new Y.XmlElement(chance.pick(['p', 'div']))
    xml.insert(chance.below(xml.length + 1), [element])
    element.setAttribute('id', chance.pick(WORDS))
    element.insert(0, [new Y.XmlText(chance.pick(WORDS)), new Y.XmlElement('b')])
  },
  (doc, chance) => {
    const xml = doc.getXmlFragment('xml')
    if (xml.length === 0) return
    const at = chance.below(xml.length)
    const element = xml.get(at)
    if (chance.odds(0.4)) xml.delete(at, 1)
    else if (element.length > 0 && element.get(0) instanceof Y.XmlText) {
      const text = element.get(0)
      chance.odds(0.7) ? insertText(text, chance) : text.length > 1 && text.format(0, wholeCharacters(text)[1], { em: {} })
    } else element.setAttribute('class', chance.pick(WORDS))
  },
  (doc, chance) => doc.transact(() => {
    doc.getMap('map').set('a', 1)
    doc.getMap('map').set('a', 2)
    doc.getText('text').insert(0, 'zz')
    doc.getText('text').delete(0, 1)
    doc.getArray('list').push(['end'])
  })
]

/** A stock document that edits itself. updates of its own go to `emit`; those applied with origin `server` do not. */
export class Author {
  constructor (chance, emit, { undo = false, gc = true } = {}) {
    this.doc = new Y.Doc({ gc })
    this.doc.clientID = chance.odds(0.1) ? 2 ** 32 + chance.below(2 ** 20) * 2 ** 32 + chance.below(2 ** 32) : chance.below(2 ** 32)
    this.doc.on('update', (update, origin) => { if (origin !== 'server') emit(update) })
    this.chance = chance
    if (undo) this.undo = new Y.UndoManager([this.doc.getText('text'), this.doc.getMap('map')], { captureTimeout: 0 })
  }

  edit () {
    const { chance, doc } = this
    if (this.undo !== undefined && chance.odds(0.2)) chance.odds(0.6) ? this.undo.undo() : this.undo.redo()
    else chance.pick(EDITS)(doc, chance)
  }
}

const bySortedKeys = (_key, part) => part !== null && typeof part === 'object' && !Array.isArray(part) && !(part instanceof Uint8Array)
  ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
  : part

/** A delta whose neighbours with equal attributes are one: where redundant formats stand is each replica's own. */
const delta = text => {
  const parts = []
  for (const { insert, attributes = {} } of text.toDelta()) {
    const look = JSON.stringify(attributes, bySortedKeys)
    const last = parts[parts.length - 1]
    if (typeof insert === 'string' && last !== undefined && typeof last[0] === 'string' && last[1] === look) last[0] += insert
    else parts.push([insert instanceof Y.AbstractType ? insert.toJSON() : insert, look])
  }
  return parts
}

/** What a document shows, as text that is equal for equal content. */
export const view = doc => JSON.stringify({
  text: delta(doc.getText('text')),
  map: doc.getMap('map').toJSON(),
  list: doc.getArray('list').toArray().map(value => value instanceof Y.Doc ? { document: value.guid } : value),
  xml: doc.getXmlFragment('xml').toString().replaceAll('</em><em>', '')
}, bySortedKeys)

export { Y }
