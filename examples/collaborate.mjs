// Two people edit one course at once, one of them goes offline, both go on working, and everything is merged.
//
//   node collaborate.mjs http://127.0.0.1:8000
import { randomUUID } from 'node:crypto'
import process from 'node:process'
import WebSocket from 'ws'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'
import { keepTokenFresh } from './token-renewal.mjs'

const WAIT_MS = 20_000
const server = (process.argv[2] ?? 'http://127.0.0.1:8000').replace(/\/+$/, '')

const post = async (path, body, token) => {
  const response = await fetch(`${server}/api/v1${path}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...(token && { Authorization: `Bearer ${token}` }) },
    body: JSON.stringify(body)
  })
  if (!response.ok) throw new Error(`POST ${path}: ${response.status} ${await response.text()}`)
  return response.json()
}

/** Opens the course as a stock client and resolves once it is synced. */
const open = async (course, accessToken, name) => {
  const getConnect = () => post(`/courses/${course}/connect`, {}, accessToken)
  const { url, token, expires_in: expiresIn } = await getConnect()
  const doc = new Y.Doc()
  const provider = new WebsocketProvider(url, course, doc, { params: { token }, WebSocketPolyfill: WebSocket, disableBc: true })
  provider.awareness.setLocalStateField('user', { name, color: '#30bced' })
  const stop = keepTokenFresh(provider, getConnect, { expiresIn })
  const close = () => {
    stop()
    provider.destroy()
    doc.destroy()
  }
  await until([provider], 'sync', () => provider.synced)
  return { name, doc, provider, close }
}

/** Resolves when the condition holds, looking again at each event of the emitters. */
const until = (emitters, event, condition) => new Promise((resolve, reject) => {
  const finish = settle => {
    clearTimeout(timer)
    for (const emitter of emitters) emitter.off(event, look)
    settle()
  }
  const look = () => {
    if (condition()) finish(resolve)
  }
  const timer = setTimeout(() => finish(() => reject(new Error(`waited in vain for ${event}`))), WAIT_MS)
  for (const emitter of emitters) emitter.on(event, look)
  look()
})

/** Resolves when both documents hold the same edits and the same deletes. */
const merged = (one, other) =>
  until([one.doc, other.doc], 'update', () => Y.equalSnapshots(Y.snapshot(one.doc), Y.snapshot(other.doc)))

const title = doc => doc.getText('title').toString()

const addLesson = ({ doc }, id, name) => doc.transact(() => {
  const node = new Y.Map()
  doc.getMap('nodes').set(id, node)
  node.set('kind', 'lesson')
  node.set('life', 1)
  node.set('title', new Y.Text(name))
  node.set('minutes', 15)
})

const email = `ada-${randomUUID()}@example.org`
const { access_token: accessToken } = await post('/auth/register', { email, name: 'Ada', password: randomUUID() })
const { id: course } = await post('/courses', { title: 'Sorting' }, accessToken)

const ada = await open(course, accessToken, 'Ada')
const ben = await open(course, accessToken, 'Ben')
console.log(`both opened the course "${title(ada.doc)}"`)

addLesson(ada, 'aaaaaaaaaaa1', 'Bubble sort')
addLesson(ben, 'aaaaaaaaaaa2', 'Merge sort')
await merged(ada, ben)
console.log(`both see ${ben.doc.getMap('nodes').size} lessons`)

ben.provider.disconnect()
console.log('Ben is offline')
addLesson(ben, 'aaaaaaaaaaa3', 'Quicksort')
ben.doc.getText('title').insert(title(ben.doc).length, ' and searching')
ada.doc.getMap('nodes').get('aaaaaaaaaaa2').set('minutes', 40)
ada.doc.getText('title').insert(0, 'Algorithms: ')
console.log(`Ada sees "${title(ada.doc)}", Ben sees "${title(ben.doc)}"`)

ben.provider.connect()
await until([ben.provider], 'sync', () => ben.provider.synced)
await merged(ada, ben)
console.log(`Ben is back; both see "${title(ada.doc)}" and ${ada.doc.getMap('nodes').size} lessons`)

ada.close()
ben.close()
