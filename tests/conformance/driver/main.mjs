// Stock Yjs clients driven over standard input and output: one JSON request per line, one JSON answer per line.
//
// Request {id, method, params}; answer {id, result} or {id, error}. Bytes travel as {"$bytes": base64}.
// Waiting is by events: every change of any client makes all open waits look at their condition again.
import './clock.mjs'
import { createInterface } from 'node:readline'

const { YjsClient, compile } = await import('./yjs_client.mjs')
const { same } = await import('./content.mjs')
const { Y } = await import('./providers.mjs')

const clients = new Map()
const waits = new Set()
const complaints = []
let looking = false

const changed = () => {
  if (looking || waits.size === 0) return
  looking = true
  setImmediate(() => {
    looking = false
    for (const wait of [...waits]) wait()
  })
}

const complain = (...words) => {
  // The stock answer to a refusal that the server told; tests look at the frame itself.
  if (String(words[0]).startsWith('Permission denied to access')) return
  complaints.push(words.map(String).join(' '))
  process.stderr.write(`${words.map(word => word?.stack ?? String(word)).join(' ')}\n`)
}
console.log = console.warn = console.error = complain
// Each provider of a process listens for its exit.
process.setMaxListeners(0)
process.on('uncaughtException', complain)
process.on('unhandledRejection', complain)

const client = name => {
  const found = clients.get(name)
  if (found === undefined) throw new Error(`no client ${name}`)
  return found
}

const context = () => Object.fromEntries(clients)

const untilTrue = ({ name, condition, args, timeout }) => new Promise((resolve, reject) => {
  const holds = compile(condition)
  const finish = settle => {
    clearTimeout(timer)
    waits.delete(look)
    settle()
  }
  const look = () => {
    try {
      if (holds(client(name), args, context(), same)) finish(() => resolve(true))
    } catch (error) {
      finish(() => reject(error))
    }
  }
  const timer = unscaled.setTimeout(() => {
    const report = JSON.stringify(client(name).report()).slice(0, 4000)
    finish(() => reject(new Error(`${name} waited ${timeout} s in vain for ${condition} ${JSON.stringify(args)}: ${report}`)))
  }, timeout * 1000)
  waits.add(look)
  look()
})

const methods = {
  async open ({ name, options }) {
    if (clients.has(name)) throw new Error(`client ${name} is open`)
    const share = options.share && client(options.share)
    clients.set(name, await YjsClient.open(name, { ...options, share }, changed))
    return client(name).doc.clientID
  },
  run: ({ name, source, args, transact }) => client(name).run(source, args, transact),
  wait: untilTrue,
  report: ({ name }) => client(name).report(),
  frames: ({ name, which }) => client(name).line.select(which),
  connect: ({ name }) => client(name).provider.connect(),
  disconnect: ({ name }) => client(name).provider.disconnect(),
  cut: ({ name }) => client(name).cut(),
  dropNext: ({ name, count }) => { client(name).line.dropNext = count },
  async destroy ({ name }) {
    const gone = client(name)
    clients.delete(name)
    await gone.destroy()
  },
  /** Work with Yjs alone, without a client: `(Y, args) => …`. */
  compute: ({ source, args }) => compile(source)(Y, args),
  complaints: () => complaints.splice(0)
}

const revive = (_key, value) =>
  value !== null && typeof value === 'object' && typeof value.$bytes === 'string' ? new Uint8Array(Buffer.from(value.$bytes, 'base64')) : value

const plain = (_key, value) => value instanceof Uint8Array ? { $bytes: Buffer.from(value).toString('base64') } : value

const answer = async line => {
  const { id, method, params } = JSON.parse(line, revive)
  try {
    const result = await methods[method](params)
    process.stdout.write(`${JSON.stringify({ id, result: result ?? null }, plain)}\n`)
  } catch (error) {
    process.stdout.write(`${JSON.stringify({ id, error: error.stack })}\n`)
  }
}

const lines = createInterface({ input: process.stdin })
lines.on('line', answer)
lines.on('close', () => process.exit(0))
process.stdout.write(`${JSON.stringify({ ready: process.version })}\n`)
