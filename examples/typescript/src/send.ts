// Sends two connection requests, accepts them, and lists the connections page by page.

import { randomUUID } from "node:crypto";
import { type Client, ConnectError, createClient } from "@connectrpc/connect";
import { ConnectionStatus } from "../gen/kith/v1/connection_pb.js";
import { ConnectionRequestService } from "../gen/kith/v1/connection_request_service_pb.js";
import { ConnectionService } from "../gen/kith/v1/connection_service_pb.js";
import { UserService } from "../gen/kith/v1/user_service_pb.js";
import { connect, errorInfo, retry } from "./client.js";

type Requests = Client<typeof ConnectionRequestService>;

async function createUser(users: Client<typeof UserService>, name: string): Promise<bigint> {
  // An id for one write. Retries have the same, so the write is made once, and each attempt returns its response.
  const requestId = randomUUID();
  const user = { username: `${name}-${requestId.slice(0, 8)}` };
  const created = await retry((options) => users.createUser({ user, requestId }, options));
  return created.user!.id;
}

/** Sends a request, or returns the id of the one that is already open. */
async function send(requests: Requests, fromUserId: bigint, toUserId: bigint): Promise<bigint> {
  const request = { fromUserId, toUserId, message: "Hi!", requestId: randomUUID() };
  try {
    const sent = await retry((options) => requests.sendConnectionRequest(request, options));
    const id = sent.connectionRequest!.id;
    console.log(`${fromUserId} -> ${toUserId}: request ${id}, ${ConnectionStatus[sent.status]}`);
    return id;
  } catch (error) {
    const info = errorInfo(ConnectError.from(error));
    if (info?.reason !== "REQUEST_PENDING") {
      throw error;
    }
    const id = info.metadata["connection_request_id"]!;
    console.log(`${info.reason}: request ${id}`);
    return BigInt(id);
  }
}

async function accept(requests: Requests, id: bigint, userId: bigint): Promise<void> {
  const request = { id, userId, requestId: randomUUID() };
  const accepted = await retry((options) => requests.acceptConnectionRequest(request, options));
  console.log(`${userId} accepts ${id}: ${ConnectionStatus[accepted.status]}`);
}

/** Yields the connections of a user, newest first. */
async function* connections(service: Client<typeof ConnectionService>, userId: bigint) {
  let pageToken = "";
  do {
    const request = { userId, pageSize: 1, pageToken }; // small, to have two pages
    const page = await retry((options) => service.listConnections(request, options));
    yield* page.connections;
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
}

const transport = connect();
const users = createClient(UserService, transport);
const requests = createClient(ConnectionRequestService, transport);

const ann = await createUser(users, "ann");
const bob = await createUser(users, "bob");
const cy = await createUser(users, "cy");
for (const other of [bob, cy]) {
  await send(requests, ann, other);
  const id = await send(requests, ann, other);
  await accept(requests, id, other);
}
for await (const connection of connections(createClient(ConnectionService, transport), ann)) {
  console.log(`${ann} is connected with ${connection.user!.id}`);
}
