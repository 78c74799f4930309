// The generations of stock clients, by the major version of their provider.
import 'fake-indexeddb/auto'
import WebSocket from 'ws'
import * as Y from 'yjs'
import { IndexeddbPersistence } from 'y-indexeddb'

// y-websocket's resyncInterval reads the browser's global.
globalThis.WebSocket ??= WebSocket

const load = async (yjs, provider) => ({ Y: yjs, Provider: (await import(provider)).WebsocketProvider })

const loaders = {
  1: () => load(Y, 'y-websocket-1'),
  2: () => load(Y, 'y-websocket-2'),
  3: () => load(Y, 'y-websocket-3'),
  4: async () => {
    // Each copy of Yjs warns when it meets the mark of another; two generations side by side are meant here.
    delete globalThis['__ $YJS$ __']
    return load(await import('@y/y'), '@y/websocket')
  }
}

/** The Yjs module and the provider class of one generation ('1' … '4'). */
export const generation = async version => loaders[version]()

export { Y, IndexeddbPersistence }
