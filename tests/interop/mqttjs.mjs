// Checks with MQTT.js. Usage: NODE_PATH=... node mqttjs.mjs PORT VERSION(4|5). Prints a line per check,
// `ok NAME` or `not ok NAME: WHY`, and ends with the number of failures.
import { createRequire } from "node:module";
import assert from "node:assert/strict";

const mqtt = createRequire(import.meta.url)("mqtt");
const port = Number(process.argv[2]);
const version = Number(process.argv[3]);
const SECONDS_MAX = 5;
const SILENCE_MILLISECONDS = 300;

let serial = 0;
const unique = (name) => `mqttjs-${version}-${name}-${process.pid}-${serial++}`;

function within(promise, what) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${SECONDS_MAX} s`)), SECONDS_MAX * 1000);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

const open = new Set();

class Client {
  static async connect(options = {}) {
    const client = new Client();
    client.messages = [];
    client.waiting = [];
    client.mqtt = mqtt.connect(`mqtt://127.0.0.1:${port}`, {
      protocolVersion: version, clientId: unique("client"), reconnectPeriod: 0, connectTimeout: SECONDS_MAX * 1000,
      ...options,
    });
    open.add(client);
    client.mqtt.on("message", (topic, payload, packet) => {
      const message = { topic, payload: payload.toString(), packet };
      const waiting = client.waiting.shift();
      if (waiting) waiting(message); else client.messages.push(message);
    });
    client.mqtt.on("error", () => {});
    client.connack = await within(new Promise((resolve, reject) => {
      client.mqtt.once("connect", resolve);
      client.mqtt.once("error", reject);
      client.mqtt.once("close", () => reject(new Error("closed")));
    }), "CONNACK");
    return client;
  }
  async subscribe(filter, options = { qos: 0 }) {
    return within(this.mqtt.subscribeAsync(filter, options), "SUBACK");
  }
  async unsubscribe(filter) { return within(this.mqtt.unsubscribeAsync(filter), "UNSUBACK"); }
  async publish(topic, payload, options = {}) {
    return within(this.mqtt.publishAsync(topic, payload, options), "acknowledgement");
  }
  next() {
    if (this.messages.length) return Promise.resolve(this.messages.shift());
    return within(new Promise((resolve) => this.waiting.push(resolve)), "message");
  }
  async silence() {
    await new Promise((resolve) => setTimeout(resolve, SILENCE_MILLISECONDS));
    assert.deepEqual(this.messages.map((m) => m.payload), []);
  }
  async end(options) { open.delete(this); await within(this.mqtt.endAsync(false, options), "end"); }
  async cut() { open.delete(this); this.mqtt.stream.destroy(); await within(this.mqtt.endAsync(true), "end"); }
}

const keeping = { clean: false, ...(version === 5 ? { properties: { sessionExpiryInterval: 100 } } : {}) };
const checks = {};

for (const qos of [0, 1, 2]) {
  checks[`publish and subscribe at QoS ${qos}`] = async () => {
    const [subscriber, publisher, topic] = [await Client.connect(), await Client.connect(), unique("topic")];
    const granted = await subscriber.subscribe(topic, { qos });
    assert.equal(granted[0].qos, qos);
    for (let i = 0; i < 50; i++) await publisher.publish(topic, `${i}`, { qos });
    for (let i = 0; i < 50; i++) {
      const message = await subscriber.next();
      assert.equal(message.payload, `${i}`);
      assert.equal(message.packet.qos, qos);
    }
    await subscriber.silence();
  };
}

checks["many at once stay in order"] = async () => {
  const [client, topic] = [await Client.connect(), unique("topic")];
  await client.subscribe(topic, { qos: 1 });
  await Promise.all(Array.from({ length: 300 }, (_, i) => client.publish(topic, `${i}`, { qos: 1 })));
  for (let i = 0; i < 300; i++) assert.equal((await client.next()).payload, `${i}`);
};

checks["retained, and cleared"] = async () => {
  const [publisher, topic] = [await Client.connect(), unique("topic")];
  await publisher.publish(topic, "kept", { qos: 1, retain: true });
  const first = await Client.connect();
  await first.subscribe(topic, { qos: 1 });
  const message = await first.next();
  assert.equal(message.payload, "kept");
  assert.equal(message.packet.retain, true);
  await publisher.publish(topic, "", { qos: 1, retain: true });
  assert.equal((await first.next()).packet.retain, false);
  const second = await Client.connect();
  await second.subscribe(topic);
  await second.silence();
};

checks["wildcards"] = async () => {
  const [client, topic] = [await Client.connect(), unique("topic")];
  await client.subscribe([`${topic}/+/c`, `${topic}/x/#`]);
  for (const end of ["a/c", "a/d", "x", "x/y/z"]) await client.publish(`${topic}/${end}`, end);
  for (const end of ["a/c", "x", "x/y/z"]) assert.equal((await client.next()).payload, end);
  await client.silence();
};

checks["unsubscribe"] = async () => {
  const [client, topic] = [await Client.connect(), unique("topic")];
  await client.subscribe(topic);
  await client.unsubscribe(topic);
  await client.publish(topic, "x");
  await client.silence();
};

checks["the Will of a cut connection"] = async () => {
  const [watcher, topic] = [await Client.connect(), unique("topic")];
  await watcher.subscribe(topic, { qos: 1 });
  const will = { topic, payload: Buffer.from("gone"), qos: 1, retain: false };
  await (await Client.connect({ will })).end();
  await watcher.silence();
  await (await Client.connect({ will })).cut();
  assert.equal((await watcher.next()).payload, "gone");
};

checks["a session is resumed"] = async () => {
  const [clientId, topic] = [unique("session"), unique("topic")];
  const first = await Client.connect({ clientId, ...keeping });
  assert.equal(first.connack.sessionPresent, false);
  await first.subscribe(topic, { qos: 2 });
  await first.cut();
  const publisher = await Client.connect();
  for (const qos of [1, 2]) await publisher.publish(topic, `${qos}`, { qos });
  const waiting = Client.connect({ clientId, ...keeping });
  const second = await waiting;
  assert.equal(second.connack.sessionPresent, true);
  for (const qos of [1, 2]) assert.equal((await second.next()).payload, `${qos}`);
};

checks["takeover"] = async () => {
  const clientId = unique("twice");
  const first = await Client.connect({ clientId });
  const closed = within(new Promise((resolve) => first.mqtt.once("close", resolve)), "close");
  await Client.connect({ clientId });
  await closed;
};

checks["a payload of a quarter of a megabyte"] = async () => {
  const [client, topic, payload] = [await Client.connect(), unique("topic"), "0123456789abcdef".repeat(16384)];
  await client.subscribe(topic, { qos: 1 });
  await client.publish(topic, payload, { qos: 1 });
  assert.equal((await client.next()).payload, payload);
};

checks["an assigned or empty client identifier"] = async () => {
  const client = await Client.connect({ clientId: "", clean: true });
  const topic = unique("topic");
  await client.subscribe(topic);
  await client.publish(topic, "x");
  assert.equal((await client.next()).payload, "x");
  if (version === 5) assert.ok(client.connack.properties.assignedClientIdentifier);
};

if (version === 5) {
  checks["properties are passed on"] = async () => {
    const [client, topic] = [await Client.connect(), unique("topic")];
    await client.subscribe(topic, { qos: 1, properties: { subscriptionIdentifier: 77 } });
    const properties = {
      payloadFormatIndicator: true, contentType: "text/plain", responseTopic: "answers",
      correlationData: Buffer.from([0, 1]), userProperties: { a: ["1", "2"], b: "3" },
    };
    await client.publish(topic, "x", { qos: 1, properties });
    const received = (await client.next()).packet.properties;
    assert.equal(received.payloadFormatIndicator, true);
    assert.equal(received.contentType, "text/plain");
    assert.equal(received.responseTopic, "answers");
    assert.deepEqual([...received.correlationData], [0, 1]);
    assert.deepEqual({ ...received.userProperties }, { a: ["1", "2"], b: "3" });
    assert.equal(received.subscriptionIdentifier, 77);
  };
  checks["No Local and Retain As Published"] = async () => {
    const [client, other, topic] = [await Client.connect(), await Client.connect(), unique("topic")];
    await client.subscribe(topic, { qos: 1, nl: true, rap: true, rh: 2 });
    await client.publish(topic, "own", { qos: 1 });
    await other.publish(topic, "foreign", { qos: 1, retain: true });
    const message = await client.next();
    assert.equal(message.payload, "foreign");
    assert.equal(message.packet.retain, true);
    await other.publish(topic, "", { qos: 1, retain: true });
  };
  checks["shared subscription"] = async () => {
    const [one, two, publisher, topic] = [await Client.connect(), await Client.connect(), await Client.connect(), unique("topic")];
    for (const member of [one, two]) await member.subscribe(`$share/group/${topic}`, { qos: 1 });
    for (let i = 0; i < 20; i++) await publisher.publish(topic, `${i}`, { qos: 1 });
    await new Promise((resolve) => setTimeout(resolve, SILENCE_MILLISECONDS));
    const numbers = [...one.messages, ...two.messages].map((m) => Number(m.payload)).sort((a, b) => a - b);
    assert.deepEqual(numbers, Array.from({ length: 20 }, (_, i) => i));
    assert.ok(one.messages.length && two.messages.length);
  };
  checks["topic aliases both ways"] = async () => {
    const client = await Client.connect({ properties: { topicAliasMaximum: 10 }, autoUseTopicAlias: true, autoAssignTopicAlias: true });
    const topic = unique("a/topic/that/is/long/enough/for/an/alias");
    await client.subscribe(topic, { qos: 1 });
    for (let i = 0; i < 5; i++) await client.publish(topic, `${i}`, { qos: 1 });
    for (let i = 0; i < 5; i++) {
      const message = await client.next();
      assert.equal(message.topic, topic);
      assert.equal(message.payload, `${i}`);
    }
  };
  checks["a delayed Will"] = async () => {
    const [watcher, topic] = [await Client.connect(), unique("topic")];
    await watcher.subscribe(topic, { qos: 1 });
    const will = { topic, payload: Buffer.from("gone"), qos: 1, properties: { willDelayInterval: 1 } };
    await (await Client.connect({ will, properties: { sessionExpiryInterval: 100 } })).cut();
    await watcher.silence();
    assert.equal((await watcher.next()).payload, "gone");
  };
}

let failures = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok ${name}`);
  } catch (error) {
    failures++;
    console.log(`not ok ${name}: ${error.message.replaceAll("\n", " ")}`);
  }
  for (const client of open) await client.cut().catch(() => {});
}
process.exit(failures);
