// A stock `ws` socket that keeps an account of its frames and can lose what comes in or goes out.
import WebSocket from 'ws'

const KEPT_FRAMES = 50_000
const KEPT_BYTES = 128

/** What one client's sockets carried, over all its reconnects, and what is to be done to the next frames. */
export class Line {
  constructor (changed) {
    this.changed = changed
    this.frames = []
    this.sockets = 0
    this.refusals = []
    this.closes = []
    this.dropNext = 0
    this.muted = false
  }

  note (direction, socket, data) {
    if (this.frames.length >= KEPT_FRAMES) this.frames.splice(0, KEPT_FRAMES / 2)
    this.frames.push({ direction, socket, ...describe(data) })
    this.changed()
  }

  /** Frames on one socket (the newest unless told), or on all of them with `socket: 'all'`. */
  select ({ direction, kind, socket = this.sockets }) {
    return this.frames.filter(frame =>
      (direction === undefined || frame.direction === direction) &&
      (kind === undefined || frame.kind === kind) &&
      (socket === 'all' || frame.socket === socket))
  }
}

const SYNC = ['step1', 'step2', 'update']
const KINDS = new Map([[1, 'awareness'], [2, 'auth'], [3, 'query'], [120, 'receipt']])

const varUint = (bytes, at) => {
  let value = 0
  let factor = 1
  for (;;) {
    const byte = bytes[at++]
    value += (byte & 127) * factor
    if (byte < 128) return { value, at }
    factor *= 128
  }
}

const describe = data => {
  const bytes = new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength)
  const frame = { size: bytes.length, hex: Buffer.from(bytes.subarray(0, KEPT_BYTES)).toString('hex') }
  const type = bytes[0]
  frame.kind = type === 0 ? `sync-${SYNC[bytes[1]]}` : (KINDS.get(type) ?? `type-${type}`)
  if (type === 1) frame.entries = varUint(bytes, varUint(bytes, 1).at).value
  if (type === 120) {
    const first = varUint(bytes, 1)
    frame.written = first.value
    frame.seq = varUint(bytes, first.at).value
  }
  return frame
}

/** A WebSocket class for one client, to be given to a provider as its `WebSocketPolyfill`. */
export const recordingSocket = line => class RecordingWebSocket extends WebSocket {
  constructor (url, protocols) {
    super(url, protocols, { perMessageDeflate: false })
    this.number = ++line.sockets
    this.on('error', error => {
      const status = /Unexpected server response: (\d+)/.exec(error.message)
      line.refusals.push({ socket: this.number, status: status === null ? null : Number(status[1]), message: error.message })
      line.changed()
    })
    this.on('close', (code, reason) => {
      line.closes.push({ socket: this.number, code, reason: reason.toString() })
      line.changed()
    })
  }

  send (data, ...rest) {
    if (line.muted) return
    line.note('out', this.number, data)
    super.send(data, ...rest)
  }

  get onmessage () {
    return super.onmessage
  }

  set onmessage (handler) {
    super.onmessage = handler && (event => {
      line.note('in', this.number, event.data)
      if (line.dropNext > 0) {
        line.dropNext--
        return
      }
      handler(event)
      line.changed()
    })
  }
}
