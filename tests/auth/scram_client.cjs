// MQTT.js proves by SCRAM-SHA-256 who it is, exchanges a message, and proves it again; what it has come to is printed.
//
// Usage: node scram_client.cjs MQTT_JS PYTHON SCRAM_HALF PORT USER PASSWORD
"use strict";

const { spawn } = require("node:child_process");
const { createInterface } = require("node:readline");

const [mqttJs, python, scramHalf, port, user, password] = process.argv.slice(2);
const mqtt = require(mqttJs);
const METHOD = "SCRAM-SHA-256";
const [CONTINUE, AGAIN] = [0x18, 0x19];

// The half that knows SCRAM: a line in, a line out.
function begin() {
  const half = spawn(python, [scramHalf, user, password], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: half.stdout })[Symbol.asyncIterator]();
  return {
    next: async () => {
      const { value, done } = await lines.next();
      if (done) throw new Error("SCRAM came to nothing");
      return value;
    },
    tell: (data) => half.stdin.write(`${data}\n`),
  };
}

async function main() {
  let half = begin();
  const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, {
    protocolVersion: 5,
    clientId: "mqtt.js",
    reconnectPeriod: 0,
    properties: { authenticationMethod: METHOD, authenticationData: Buffer.from(await half.next()) },
  });
  const auth = (reasonCode, data) => ({
    cmd: "auth",
    reasonCode,
    properties: { authenticationMethod: METHOD, authenticationData: Buffer.from(data) },
  });
  const finish = async (packet) => {
    half.tell(packet.properties.authenticationData);
    return half.next();
  };
  let proved;
  const again = new Promise((resolve) => (proved = resolve));
  client.handleAuth = (packet, callback) => {
    if (packet.reasonCode === CONTINUE) {
      half.tell(packet.properties.authenticationData);
      half.next().then((data) => callback(null, auth(CONTINUE, data)), callback);
    } else {
      finish(packet).then(proved, callback);
      callback();
    }
  };
  const connack = await new Promise((resolve, reject) => client.once("connect", resolve).once("error", reject));
  client.on("error", (error) => fail(error));
  console.log("connected, and the server has", await finish(connack));
  await client.subscribeAsync("scram/#", { qos: 1 });
  const message = new Promise((resolve) => client.once("message", (topic, payload) => resolve(`${payload}`)));
  await client.publishAsync("scram/a", "hello", { qos: 1 });
  console.log("received", await message);
  half = begin();
  client._sendPacket(auth(AGAIN, await half.next()));
  console.log("once more the server has", await again);
  await client.endAsync();
}

function fail(error) {
  console.log("failed:", error.message);
  process.exit(1);
}

main().catch(fail);
