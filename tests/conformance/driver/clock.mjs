// Makes time run faster for the clients of this process, so that their watchdogs and renewals come sooner.
// CLOCK_SPEED=20 turns 30 seconds into one and a half. `unscaled` keeps the true timers for the driver itself.
const speed = Number(process.env.CLOCK_SPEED ?? 1)

globalThis.unscaled = { setTimeout }

if (speed !== 1) {
  const { setTimeout, setInterval } = globalThis
  const now = Date.now
  const start = now()
  Date.now = () => Math.floor(start + (now() - start) * speed)
  globalThis.setTimeout = (work, delay, ...rest) => setTimeout(work, delay / speed, ...rest)
  globalThis.setInterval = (work, delay, ...rest) => setInterval(work, delay / speed, ...rest)
}
