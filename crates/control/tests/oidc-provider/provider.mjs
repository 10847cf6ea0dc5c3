// A certified OpenID Connect provider for the tests: `oidc-provider` with one client, and people who are whoever they say.
//
// Arguments: the directory with the package, the port, the address that it leads back to. Its sign-in and consent pages
// are its own. It signs with ES256 and with keys of this start; `KEY` in the environment names a further key first.

import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { generateKeyPairSync } from 'node:crypto';

const [directory, port, redirect] = process.argv.slice(2);
const require = createRequire(`${directory}/package.json`);
const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')).href);

const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const signing = { ...privateKey.export({ format: 'jwk' }), kid: `start-${process.pid}`, use: 'sig', alg: 'ES256' };
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: 'runmesh-test',
      client_secret: 'a-client-secret-of-at-least-32-bytes',
      redirect_uris: [redirect],
      response_types: ['code'],
      grant_types: ['authorization_code'],
      id_token_signed_response_alg: process.env.ALGORITHM ?? 'ES256',
    },
  ],
  jwks: { keys: [signing, { ...rsa, kid: `rsa-${process.pid}`, use: 'sig', alg: 'RS256' }] },
  cookies: { keys: ['for tests only'] },
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
  pkce: { required: () => true },
  async findAccount(_, id) {
    const verified = !id.startsWith('unverified-');
    return {
      accountId: id,
      claims: async () => ({ sub: id, name: `Name of ${id}`, email: `${id}@example.com`, email_verified: verified }),
    };
  },
});
provider.listen(Number(port), '127.0.0.1', () => console.log('ready'));
