// Frames over standard input and output: four bytes of length, big-endian, then so many bytes.

/** Answers every frame that comes in with one that goes out, until the input ends. */
export const serve = answer => {
  const chunks = []
  let size = 0
  process.stdin.on('data', chunk => {
    chunks.push(chunk)
    size += chunk.length
    if (size < 4) return
    let all = chunks.length === 1 ? chunks[0] : null
    const head = all ?? Buffer.concat(chunks)
    if (size < 4 + head.readUInt32BE(0)) {
      if (chunks.length > 64) chunks.splice(0, chunks.length, head)
      return
    }
    all ??= head
    const length = all.readUInt32BE(0)
    chunks.splice(0, chunks.length, all.subarray(4 + length))
    size -= 4 + length
    const answered = answer(all.subarray(4, 4 + length))
    const prefix = Buffer.alloc(4)
    prefix.writeUInt32BE(answered.length)
    process.stdout.write(Buffer.concat([prefix, answered]))
  })
}

/** Writes numbers below 2^53 as varUints, and byte strings with their length in front. */
export class Writer {
  parts = []

  number (value) {
    const bytes = []
    while (value > 127) {
      bytes.push(128 | (value % 128))
      value = Math.floor(value / 128)
    }
    bytes.push(value)
    this.parts.push(Buffer.from(bytes))
    return this
  }

  bytes (value) {
    this.number(value.length).parts.push(value)
    return this
  }

  text (value) { return this.bytes(Buffer.from(value)) }

  done () { return Buffer.concat(this.parts) }
}

/** Reads what a Writer of the other side wrote. */
export class Reader {
  constructor (data) {
    this.data = data
    this.at = 0
  }

  number () {
    let value = 0
    for (let factor = 1; ; factor *= 128) {
      const byte = this.data[this.at++]
      value += (byte & 127) * factor
      if (byte < 128) return value
    }
  }

  bytes () {
    const length = this.number()
    this.at += length
    return this.data.subarray(this.at - length, this.at)
  }
}
