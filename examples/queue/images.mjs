// Queues images and prints what became of each: an application's own BullMQ queue, worked on by `phalanx work`.
//
//   REDIS_URL=redis://127.0.0.1:6379 node images.mjs QUEUE PICTURE...

import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { Queue, QueueEvents } from "bullmq";

const [name, ...pictures] = process.argv.slice(2);
const redis = new URL(process.env.REDIS_URL ?? "redis://127.0.0.1:6379");
const connection = {
  host: redis.hostname,
  port: Number(redis.port || 6379),
  username: redis.username || undefined,
  password: redis.password || undefined,
};

const queue = new Queue(name, { connection });
const events = new QueueEvents(name, { connection });
await events.waitUntilReady();

const jobs = await queue.addBulk(
  await Promise.all(
    pictures.map(async (picture) => ({
      name: "images.process",
      data: { image: (await readFile(picture)).toString("base64"), return_image: false },
      opts: { attempts: 3, backoff: { type: "exponential", delay: 1000 } },
    })),
  ),
);

for (const [index, job] of jobs.entries()) {
  const line = { picture: basename(pictures[index]), job: job.id };
  try {
    const result = await job.waitUntilFinished(events, 60_000);
    console.log(JSON.stringify({ ...line, result }));
  } catch (failure) {
    // A failure is {"code", "detail"} as JSON.
    console.log(JSON.stringify({ ...line, error: JSON.parse(failure.message) }));
    process.exitCode = 1;
  }
}

await events.close();
await queue.close();
