// Enrols a user's face from a picture or its URL, and prints each stage as it begins: the pipeline of a face application.
//
//   REDIS_URL=redis://127.0.0.1:6379 node faces.mjs QUEUE COLLECTION USER PICTURE|URL

import { readFile } from "node:fs/promises";
import { Queue, QueueEvents } from "bullmq";

const [name, collection, user, picture] = process.argv.slice(2);
const redis = new URL(process.env.REDIS_URL ?? "redis://127.0.0.1:6379");
const connection = {
  host: redis.hostname,
  port: Number(redis.port || 6379),
  username: redis.username || undefined,
  password: redis.password || undefined,
};

const queue = new Queue(name, { connection });
// From a minute ago: what is told while this still connects is not missed. Other jobs' events are passed over.
const events = new QueueEvents(name, { connection, lastEventId: `${Date.now() - 60_000}-0` });
const started = [];
let job;
const print = ({ jobId, data }) => {
  if (job === undefined) started.push({ jobId, data });
  else if (jobId === job.id) console.log(JSON.stringify({ stage: data.stage, fraction: data.fraction }));
};
events.on("progress", print);
await events.waitUntilReady();

const image = /^https?:/.test(picture) ? { url: picture } : { image: (await readFile(picture)).toString("base64") };
job = await queue.add(
  "faces.enrol",
  { ...image, user_id: user, collection },
  { attempts: 3, backoff: { type: "exponential", delay: 1000 }, removeOnComplete: { age: 3600 } },
);
started.splice(0).forEach(print);

try {
  const { person_id, model, created, face } = await job.waitUntilFinished(events, 60_000);
  console.log(JSON.stringify({ person: person_id, point: face.id, quality: face.quality, model, created }));
} catch (failure) {
  // A failure is {"code", "detail"} as JSON.
  console.log(JSON.stringify({ error: JSON.parse(failure.message) }));
  process.exitCode = 1;
}

await events.close();
await queue.close();
