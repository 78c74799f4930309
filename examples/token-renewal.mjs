// Keeps the connect token of a stock y-websocket provider (1.5, 2.1, 3.1 and later) fresh.
//
//   const { url, token, expires_in } = await getConnect()
//   const provider = new WebsocketProvider(url, course, doc, { params: { token } })
//   const stop = keepTokenFresh(provider, getConnect, { expiresIn: expires_in })
//
// `getConnect` asks `POST /api/v1/courses/{id}/connect` and resolves to its answer, `{ token, expires_in, … }`.
// A token only opens sockets: an open one lives on. So a new token is needed before the next reconnect. It is
// fetched when four fifths of the old one's life are over, when a timer shows that the machine slept past that
// point, and when an attempt to connect failed (a browser page cannot see that it was a 401).

const CHECK_MS = 10_000
const RETRY_MS = 5_000
const RENEW_AT = 0.8

/**
 * Starts renewing; returns a function that stops it. `onError` hears of failed renewals, which are tried again.
 * `expiresIn` is the life of the token the provider was made with, in seconds; without it one is fetched at once.
 */
export const keepTokenFresh = (provider, getConnect, { expiresIn = 0, onError = () => {} } = {}) => {
  let renewAt = Date.now() + expiresIn * 1000 * RENEW_AT
  let notBefore = 0
  let renewing = false
  let stopped = false

  const renew = async () => {
    if (renewing || stopped || Date.now() < notBefore) return
    renewing = true
    notBefore = Date.now() + RETRY_MS
    try {
      const { token, expires_in: life } = await getConnect()
      if (stopped) return
      setToken(provider, token)
      renewAt = Date.now() + life * 1000 * RENEW_AT
    } catch (error) {
      onError(error)
    } finally {
      renewing = false
    }
  }

  // Looking often, in place of one long timer, also notices that the machine slept.
  const look = () => {
    if (Date.now() >= renewAt) renew()
  }
  const refused = () => {
    if (!provider.wsconnected) renew()
  }

  const timer = setInterval(look, Math.max(100, Math.min(CHECK_MS, expiresIn * 100)))
  timer.unref?.()
  provider.on('connection-error', refused)
  const page = globalThis.document
  page?.addEventListener('visibilitychange', look)
  look()

  return () => {
    stopped = true
    clearInterval(timer)
    provider.off('connection-error', refused)
    page?.removeEventListener('visibilitychange', look)
  }
}

/** Gives the provider a token for its next attempt to connect. */
export const setToken = (provider, token) => {
  if (Object.hasOwn(provider, 'url')) {
    // 1.5 builds its URL once, in the constructor.
    const url = new URL(provider.url)
    url.searchParams.set('token', token)
    provider.url = url.toString()
  } else {
    // Later ones build it from `params` at each attempt.
    provider.params = { ...provider.params, token }
  }
}
