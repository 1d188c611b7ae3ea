// Follows the feed of events, and resumes where it ended before.

import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ConnectError, createClient } from "@connectrpc/connect";
import { type Event, EventKind } from "../gen/kith/v1/event_pb.js";
import { EventService } from "../gen/kith/v1/event_service_pb.js";
import { UserService } from "../gen/kith/v1/user_service_pb.js";
import { connect, errorInfo, isTemporary, retry } from "./client.js";

interface Cursor {
  /** Events after this one are next. JSON has no bigint. */
  revision: string;
  epoch: string;
}

const FILE = process.env.KITH_CURSOR ?? "kith-cursor.json";
const transport = connect();

function load(): Cursor | undefined {
  return existsSync(FILE) ? JSON.parse(readFileSync(FILE, "utf8")) : undefined;
}

/** Replaces the cursor, in one step. Store it in the transaction of what `handle` writes, if it has one. */
function store(cursor: Cursor): void {
  writeFileSync(`${FILE}.new`, JSON.stringify(cursor));
  renameSync(`${FILE}.new`, FILE);
}

/** Lists what is there before the first event. What changes meanwhile is an event after the first page. */
async function begin(): Promise<Cursor> {
  const users = createClient(UserService, transport);
  let [count, revision, epoch, pageToken] = [0, "", "", ""];
  do {
    const page = await retry((options) => users.listUsers({ pageSize: 1000, pageToken }, options));
    count += page.users.length;
    revision ||= page.revision.toString();
    epoch ||= page.epoch;
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  console.log(`listed ${count} users at revision ${revision}`);
  return { revision, epoch };
}

/** Handles an event. It comes again if the program ends before the cursor is stored. */
function handle(event: Event): void {
  console.log(`${event.sequence} ${EventKind[event.kind]} ${event.userId} ${event.otherUserId}`);
}

/** Handles events until the stream ends. */
async function watch(cursor: Cursor): Promise<void> {
  const request = { afterSequence: BigInt(cursor.revision), epoch: cursor.epoch };
  for await (const message of createClient(EventService, transport).watchEvents(request)) {
    // The first message has no events, nor has one that is sent because nothing happens: how far the feed was read.
    for (const event of message.events) {
      handle(event);
    }
    store({ revision: message.revision.toString(), epoch: message.epoch });
  }
}

for (;;) {
  try {
    await watch(load() ?? (await begin()));
  } catch (error) {
    if (!(error instanceof ConnectError)) {
      throw error;
    }
    const reason = errorInfo(error)?.reason;
    if (reason === "CURSOR_EXPIRED" || reason === "WRONG_EPOCH") {
      console.log(`${reason}: listing again`);
      rmSync(FILE, { force: true });
    } else if (isTemporary(error)) {
      await sleep(1000);
    } else {
      throw error;
    }
  }
}
