// Two clients of Yjs 14 with @y/websocket 4, in a process of their own: yjs 13 and @y/y do not share one.
// Arguments: URL, room, token. Prints one line of JSON: what the second client holds at the end.
import * as Y from '@y/y'
import { WebsocketProvider } from '@y/websocket'
import WebSocket from 'ws'

const [url, room, token] = process.argv.slice(2)

const open = () => {
  const doc = new Y.Doc()
  const provider = new WebsocketProvider(url, room, doc, { params: { token }, WebSocketPolyfill: WebSocket, disableBc: true })
  return { doc, provider }
}

/** Resolves once the condition holds; looked at again after every update and every change of the connection. */
const until = (client, condition) => new Promise(resolve => {
  const look = () => condition() && resolve()
  client.doc.on('update', look)
  client.provider.on('sync', look)
  client.provider.on('status', look)
  look()
})

const first = open()
const second = open()
await Promise.all([first, second].map(client => until(client, () => client.provider.synced)))
first.doc.getMap('nodes').set('from the first', 1)
await until(second, () => second.doc.getMap('nodes').get('from the first') === 1)

second.provider.disconnect()
await until(second, () => !second.provider.wsconnected)
second.doc.getText('title').insert(0, 'offline 😀 ')
first.doc.getMap('nodes').set('meanwhile', true)
second.provider.connect()
await until(second, () => second.doc.getMap('nodes').get('meanwhile') === true)
await until(first, () => first.doc.getText('title').toString().startsWith('offline 😀 '))

console.log(JSON.stringify({ title: second.doc.getText('title').toString(), nodes: second.doc.getMap('nodes').toJSON() }))
for (const client of [first, second]) client.provider.destroy()
process.exit(0)
