// What a document holds, in forms that can be compared and sent as JSON.
import { Y } from './providers.mjs'

export const stateVector = doc => {
  const vector = {}
  for (const [client, structs] of doc.store.clients) {
    const last = structs[structs.length - 1]
    vector[client] = last.id.clock + (last.length ?? last.len)
  }
  return vector
}

/** Deleted clock ranges per client, joined where they touch. */
export const deleteSet = doc => {
  const ranges = {}
  for (const [client, structs] of doc.store.clients) {
    for (const struct of structs) {
      if (!struct.deleted) continue
      const list = (ranges[client] ??= [])
      const last = list[list.length - 1]
      if (last !== undefined && last[1] === struct.id.clock) last[1] += struct.length
      else list.push([struct.id.clock, struct.id.clock + struct.length])
    }
  }
  return ranges
}

export const hasPending = doc => (doc.store.pendingStructs ?? null) !== null || (doc.store.pendingDs ?? null) !== null

const value = type => {
  if (type instanceof Y.XmlFragment || type instanceof Y.XmlText) return type.toString()
  if (type instanceof Y.Text) return type.toDelta()
  return type.toJSON()
}

/** Roots by name; a root that this client has not given a type is absent. */
export const content = doc => {
  const roots = {}
  for (const [name, type] of [...doc.share].sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (type.constructor !== Y.AbstractType) roots[name] = value(type)
  }
  return roots
}

const shareTypes = (from, to) => {
  for (const [name, type] of from.share) {
    if (type.constructor !== Y.AbstractType) to.get(name, type.constructor)
  }
}

/** JSON with sorted keys: the order of a map's keys is each replica's own. */
const canonical = object => JSON.stringify(object, (_key, part) =>
  part !== null && typeof part === 'object' && !Array.isArray(part)
    ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
    : part)

/** Whether two Yjs 13 documents hold the same structs, the same deletes, the same content, and nothing pending. */
export const same = (a, b) => {
  if (hasPending(a) || hasPending(b)) return false
  if (canonical(stateVector(a)) !== canonical(stateVector(b))) return false
  if (canonical(deleteSet(a)) !== canonical(deleteSet(b))) return false
  shareTypes(a, b)
  shareTypes(b, a)
  return canonical(content(a)) === canonical(content(b))
}
