// Stock y-websocket clients that move their cursors: `node presence.mjs URL COUNT`.
//
// One JSON request a line, one JSON answer a line; the first line out says that all are synced. {move: seconds, rate}: all move so
// often a second; answers what they saw. {shows: {client: move}}: whether every client shows these. Ends with its input.
import { createInterface } from 'node:readline'
import { createRequire } from 'node:module'
import { generation } from '../tests/conformance/driver/providers.mjs'

const MOST_SECONDS = 240 // a server that never answers does not keep this process for ever
const WebSocket = createRequire(new URL('../tests/conformance/package.json', import.meta.url))('ws')
const { Y, Provider } = await generation('3')

const [address, count] = process.argv.slice(2)
const url = new URL(address)
url.searchParams.delete('ack') // receipts are not for stock clients
const cut = url.pathname.lastIndexOf('/')
const server = `${url.protocol}//${url.host}${url.pathname.slice(0, cut)}`
const room = url.pathname.slice(cut + 1)

let seen = { delivered: 0, sent: 0, took: 0, delays: [] }

/** Milliseconds on the machine's clock: the same for all processes. */
const now = () => Number(process.hrtime.bigint()) / 1e6

class CountingSocket extends WebSocket {
  constructor (...options) {
    super(...options)
    this.on('message', data => { seen.took += data.byteLength ?? data.length })
  }

  send (data, ...options) {
    seen.sent++
    super.send(data, ...options)
  }
}

const join = () => {
  const doc = new Y.Doc()
  const provider = new Provider(server, room, doc, {
    disableBc: true, WebSocketPolyfill: CountingSocket, params: Object.fromEntries(url.searchParams)
  })
  const { awareness } = provider
  awareness.on('update', ({ added, updated }, origin) => {
    if (origin === 'local') return
    const arrived = now()
    for (const client of [...added, ...updated]) {
      const state = awareness.getStates().get(client)
      if (state?.at === undefined || client === doc.clientID) continue
      seen.delivered++
      seen.delays.push(arrived - state.at)
    }
  })
  return provider
}

process.setMaxListeners(0) // each provider waits for the end of the process
const clients = []
const synced = provider => new Promise(resolve => provider.once('sync', resolve))
for (let number = 0; number < Number(count); number++) {
  clients.push(join())
  await synced(clients[number])
}

const moves = clients.map(() => 0)

const move = (provider, number) => {
  moves[number]++
  provider.awareness.setLocalState({
    user: { name: `Visitor ${provider.doc.clientID}`, color: '#30bced' },
    cursor: { x: moves[number] % 1900 + 0.25, y: 0.5, node: 'aB3dE6gH9jK2' },
    at: now(),
    move: moves[number]
  })
}

const moveFor = async (seconds, rate) => {
  seen = { delivered: 0, sent: 0, took: 0, delays: [] }
  const step = 1000 / (rate * clients.length)
  const started = now()
  let made = 0
  while (now() < started + seconds * 1000) {
    while (started + made * step <= now()) {
      move(clients[made % clients.length], made % clients.length)
      made++
    }
    await new Promise(resolve => setTimeout(resolve, 1))
  }
  return { made, ...seen, moves: Object.fromEntries(clients.map(({ doc }, number) => [doc.clientID, moves[number]])) }
}

const shows = expected => clients.every(({ awareness }) =>
  Object.entries(expected).every(([client, at]) => awareness.getStates().get(Number(client))?.move === at))

const say = answer => process.stdout.write(`${JSON.stringify(answer)}\n`)

setTimeout(() => process.exit(1), MOST_SECONDS * 1000)
say('synced')
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line)
  say(request.shows === undefined ? await moveFor(request.move, request.rate) : shows(request.shows))
}
process.exit(0)
