// Connects to Kith, retries calls, and decodes errors.

import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { type CallOptions, Code, ConnectError, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";

const TIMEOUT_MS = 10_000; // for one attempt
const ATTEMPTS = 10; // of a call

/** Sends the token of a file. It is read for each call, since tokens expire and are replaced. */
function bearer(file: string): Interceptor {
  return (next) => async (request) => {
    request.header.set("authorization", `Bearer ${(await readFile(file, "utf8")).trim()}`);
    return next(request);
  };
}

/**
 * Connects to KITH_SERVER. `https://` is TLS, with the authorities of KITH_TLS_CA or Node's own.
 *
 * KITH_TOKEN_FILE has an API key or a token. It is sent over TLS only.
 */
export function connect(): Transport {
  const { KITH_SERVER: server = "127.0.0.1:50051", KITH_TLS_CA: authorities, KITH_TOKEN_FILE: token } = process.env;
  const isSecure = server.startsWith("https://");
  if (token && !isSecure) {
    throw new Error("KITH_TOKEN_FILE needs KITH_SERVER=https://…");
  }
  return createGrpcTransport({
    baseUrl: isSecure ? server : `http://${server}`,
    nodeOptions: authorities && isSecure ? { ca: readFileSync(authorities) } : {},
    interceptors: token ? [bearer(token)] : [],
    // Notices a server that is gone without a word, also while a watch is silent.
    pingIntervalMs: 30_000,
  });
}

/** The reason of an error of Kith, a name of the enum ErrorReason, and its metadata. */
export function errorInfo(error: ConnectError) {
  return error.findDetails(ErrorInfoSchema).at(0);
}

/** Whether the same call may succeed later. An error of the connection has no details; each of Kith's own has. */
export function isTemporary(error: ConnectError): boolean {
  const info = errorInfo(error);
  if (info === undefined) {
    return [Code.Unavailable, Code.DeadlineExceeded, Code.Aborted, Code.Canceled, Code.Internal].includes(error.code);
  }
  return (
    [Code.Unavailable, Code.DeadlineExceeded].includes(error.code) ||
    ["OVERLOADED", "RATE_LIMITED"].includes(info.reason)
  );
}

/** Makes a call, again if it fails temporarily. A write needs a `requestId`: then it is made once only. */
export async function retry<T>(call: (options: CallOptions) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await call({ timeoutMs: TIMEOUT_MS });
    } catch (thrown) {
      const error = ConnectError.from(thrown);
      if (attempt === ATTEMPTS || !isTemporary(error)) {
        throw error;
      }
      const delay = error.findDetails(RetryInfoSchema).at(0)?.retryDelay;
      const asked = delay ? Number(delay.seconds) * 1000 + delay.nanos / 1e6 : 0;
      const pause = Math.max(asked, Math.min(100 * 2 ** attempt, 2000) * (0.5 + Math.random() / 2));
      console.error(`retrying in ${Math.round(pause)} ms: ${Code[error.code]}`);
      await sleep(pause);
    }
  }
}
