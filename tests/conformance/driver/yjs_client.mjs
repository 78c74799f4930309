// One stock client: a document, its provider over a recorded socket, and perhaps a local store.
import { Line, recordingSocket } from './recording_socket.mjs'
import { content, deleteSet, hasPending, stateVector } from './content.mjs'
import { generation, IndexeddbPersistence } from './providers.mjs'

const RECEIPT = 120

export class YjsClient {
  static async open (name, options, changed) {
    return new YjsClient(name, options, await generation(options.version), changed)
  }

  constructor (name, options, { Y, Provider }, changed) {
    this.name = name
    this.Y = Y
    this.line = new Line(changed)
    this.statuses = []
    this.events = []
    const { share, clientId, indexeddb } = options
    this.doc = share?.doc ?? new Y.Doc()
    if (clientId !== undefined) this.doc.clientID = clientId
    this.doc.on('update', changed)
    if (indexeddb !== undefined) this.openStore(indexeddb, changed)
    this.provider = new Provider(options.url, options.room, this.doc, {
      connect: false,
      disableBc: true,
      WebSocketPolyfill: recordingSocket(this.line),
      params: options.params ?? {},
      maxBackoffTime: options.maxBackoffTime ?? 400,
      resyncInterval: options.resyncInterval ?? -1,
      ...(share === undefined ? {} : { awareness: share.awareness })
    })
    this.awareness = this.provider.awareness
    this.watch(options, changed)
    if (options.connect !== false) this.provider.connect()
  }

  openStore (name, changed) {
    this.store = new IndexeddbPersistence(name, this.doc)
    this.stored = false
    this.store.whenSynced.then(() => {
      this.stored = true
      changed()
    })
  }

  watch ({ presence = {}, share, onConnected }, changed) {
    const { provider } = this
    // A state that was never set has clock 0, which stock clients ignore until its renewal after 15 s.
    if (share === undefined) this.awareness.setLocalState(presence)
    this.awareness.on('update', changed)
    this.awareness.on('change', ({ added, removed }) => this.events.push({ event: 'presence', added, removed }))
    provider.on('status', ({ status }) => {
      this.statuses.push(status)
      if (status === 'connected' && onConnected) this.run(onConnected, [])
      changed()
    })
    provider.on('sync', changed)
    provider.on('closed', details => {
      this.events.push({ event: 'closed', ...details })
      changed()
    })
    provider.messageHandlers[RECEIPT] = () => {}
  }

  /** Whether every write that went out on the present socket has its receipt (asked for with `ack=seq`). */
  get saved () {
    const written = ['sync-step2', 'sync-update']
      .reduce((sum, kind) => sum + this.line.select({ direction: 'out', kind }).length, 0)
    const receipts = this.line.select({ direction: 'in', kind: 'receipt' })
    return written > 0 && receipts.length > 0 && receipts[receipts.length - 1].written === written
  }

  /** Runs `(client, doc, Y, args) => …`, given as text, inside one transaction. */
  run (source, args, transact = true) {
    const work = compile(source)
    return transact ? this.doc.transact(() => work(this, this.doc, this.Y, args)) : work(this, this.doc, this.Y, args)
  }

  /** Ends the TCP connection without a close frame, as a lost network does. */
  cut () {
    this.provider.ws?.terminate()
  }

  async destroy () {
    this.provider.shouldConnect = false
    this.provider.destroy()
    await this.store?.destroy()
    this.awareness.destroy()
    this.doc.destroy()
  }

  report () {
    const { line, provider } = this
    return {
      synced: provider.synced,
      connected: provider.wsconnected,
      content: content(this.doc),
      stateVector: stateVector(this.doc),
      deleteSet: deleteSet(this.doc),
      pending: hasPending(this.doc),
      statuses: this.statuses,
      sockets: line.sockets,
      refusals: line.refusals,
      closes: line.closes,
      events: this.events,
      presence: Object.fromEntries(this.awareness.getStates())
    }
  }
}

const compiled = new Map()

export const compile = source => {
  if (!compiled.has(source)) compiled.set(source, new Function(`return (${source})`)())
  return compiled.get(source)
}
