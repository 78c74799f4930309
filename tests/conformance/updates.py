"""JavaScript that makes Yjs updates for the conformance tests."""

from typing import Final

# Runs of single edits by one author: a list of updates, each needing those before it.
EDITS_OF_ONE_AUTHOR: Final = """(Y, {clientId, words}) => {
  const doc = new Y.Doc()
  doc.clientID = clientId
  const updates = []
  doc.on('update', update => updates.push(update))
  for (const word of words) doc.getMap('settings').set(word, `by ${clientId}`)
  return updates
}"""

# One update holding an edit of each of many authors.
EDITS_OF_MANY_AUTHORS: Final = """(Y, {count}) => {
  const updates = []
  for (let number = 1; number <= count; number++) {
    const doc = new Y.Doc()
    doc.clientID = 1000 + number
    doc.getMap('settings').set(`key${number}`, number)
    updates.push(Y.encodeStateAsUpdate(doc))
  }
  return Y.mergeUpdates(updates)
}"""

# A course of the published schema (nodes with all nested types, edges under derived keys, layout): one update.
COURSE: Final = """(Y, {nodes}) => {
  const doc = new Y.Doc()
  const id = number => `n${number.toString(36).padStart(11, '0')}`
  for (let number = 0; number < nodes; number++) {
    doc.transact(() => {
      const node = new Y.Map()
      doc.getMap('nodes').set(id(number), node)
      const properties = {
        kind: ['lesson', 'video', 'quiz', 'assignment'][number % 4], by: 'u1', at: 1700000000000 + number,
        parent: '', ord: `a${number.toString(36)}V`, status: 'draft', minutes: 5 + number % 40, 'tag:graph': true
      }
      for (const [key, value] of Object.entries(properties)) node.set(key, value)
      node.set('title', new Y.Text(`Lesson ${number}`))
      node.set('desc', new Y.Text(`What lesson ${number} is about 🧭`))
    })
    doc.transact(() => {
      doc.getMap('nodes').get(id(number)).set('life', 1)
      doc.getMap('layout').set(`flow/${id(number)}`, [number % 50 * 220, Math.floor(number / 50) * 120])
      if (number > 0) {
        const edge = {type: 'pre', from: id(number - 1), to: id(number), by: 'u1', at: 1700000000000 + number}
        doc.getMap('edges').set(`pre:${edge.from}>${edge.to}`, edge)
      }
    })
  }
  return Y.encodeStateAsUpdate(doc)
}"""

# Applied to a live client as work of its own: the provider sends it on.
APPLY: Final = "(client, doc, Y, {update}) => Y.applyUpdate(doc, update)"
# Applied as if another channel had brought it: the provider does not send it.
APPLY_UNSENT: Final = "({provider}, doc, Y, {update}) => Y.applyUpdate(doc, update, provider)"
