// A TLS client of Node.js: node tls_node.mjs PORT VERSION CA_FILE [IDENTITY KEY_HEX]
// Says what it exports, sends CONNECT (MQTT 3.1.1), and says what comes back. Ends when its standard input does.
import { readFileSync } from 'node:fs';
import tls from 'node:tls';

const [port, version, ca, identity, key] = process.argv.slice(2);
const options = {
  host: '127.0.0.1',
  port: Number(port),
  servername: 'localhost',
  ALPNProtocols: ['mqtt'],
  minVersion: version,
  maxVersion: version,
  ca: readFileSync(ca),
};
if (identity) {
  options.pskCallback = () => ({ identity, psk: Buffer.from(key, 'hex') });
  // external keys are of SHA-256; without a certificate there is no name to check
  options.ciphers = version === 'TLSv1.2' ? 'PSK' : 'TLS_AES_128_GCM_SHA256';
  options.checkServerIdentity = () => undefined;
}
const socket = tls.connect(options, () => {
  const label = 'EXPORTER-ACE-MQTT-Sign-Challenge';
  const exported = (...context) => socket.exportKeyingMaterial(32, label, ...context).toString('hex').toUpperCase();
  console.log(`ALPN protocol: ${socket.alpnProtocol}`);
  console.log(`Keying material, empty context: ${exported(Buffer.alloc(0))}`);
  console.log(`Keying material: ${exported()}`);
  socket.write(Buffer.from('100c00044d5154540402003c0000', 'hex'));
});
socket.on('data', (octets) => console.log(`received: ${octets.toString('hex')}`));
socket.on('error', (error) => { console.log(`error: ${error.message}`); process.exit(1); });
socket.on('close', () => process.exit(0));
process.stdin.resume();
process.stdin.on('end', () => socket.end());
