// A real OAuth server for tests: npm's oidc-provider on a free port, everything in memory, with pages on which a person signs
// in and unticks scopes, and a way for tests to set it up (`/admin/…`). It prints where it is, and ends with its standard input.
//
//   node server.mjs PATH-OF-OIDC-PROVIDER
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';
import { Memory, graceOf, held } from './memory.mjs';
import { consentPage, loginPage } from './pages.mjs';

const { default: Provider } = await import(pathToFileURL(process.argv[2]).href);

const ACCOUNTS = {
  ann: { name: 'Ann Archer', email: 'ann@example.com' },
  bob: { name: 'Bob Baker', email: 'bob@example.com' },
};
// Besides those of OpenID: what a connection's services ask for.
const SCOPES = ['openid', 'offline_access', 'calendar', 'mail', 'files'];
// Granted with the others: no person is asked about them.
const UNASKED = ['openid', 'offline_access'];

// What tests change while it runs.
const settings = {
  access_token_seconds: 3600,
  refresh_token_seconds: 14 * 24 * 3600,
  rotates: true,
  // How long a refresh token works on that was spent.
  grace_seconds: 0,
  find_account_milliseconds: 0,
};

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// Listens first: what it issues names its port.
const server = createServer();
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  adapter: Memory,
  scopes: SCOPES,
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none'],
  cookies: { keys: ['only for tests'] },
  features: {
    devInteractions: { enabled: false },
    revocation: { enabled: true },
    userinfo: { enabled: true },
    clientCredentials: { enabled: true },
  },
  async findAccount(_, id) {
    if (settings.find_account_milliseconds > 0) await pause(settings.find_account_milliseconds);
    const account = ACCOUNTS[id];
    return account && { accountId: id, claims: () => ({ sub: id, email_verified: true, ...account }) };
  },
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  pkce: { required: () => true },
  rotateRefreshToken: () => settings.rotates,
  // As providers do that connections are made with: a refresh token for whoever may use one, for longer than a session.
  issueRefreshToken: async (_, client) => client.grantTypeAllowed('refresh_token'),
  expiresWithSession: async () => false,
  ttl: {
    AccessToken: () => settings.access_token_seconds,
    ClientCredentials: () => settings.access_token_seconds,
    RefreshToken: () => settings.refresh_token_seconds,
    AuthorizationCode: 60,
    IdToken: 3600,
    Grant: 30 * 24 * 3600,
    Interaction: 3600,
    Session: 3600,
  },
});

const body = async (request) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
};
const answerJson = (response, status, value) => {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
};
const answerHtml = (response, status, html) => {
  response.writeHead(status, { 'content-type': 'text/html; charset=utf-8' }).end(html);
};

// What people do.
const asked = (params) => (params.scope ?? '').split(' ').filter((scope) => scope && !UNASKED.includes(scope));

const interact = async (request, response) => {
  const details = await provider.interactionDetails(request, response);
  const { uid, prompt, params, session } = details;
  if (request.method === 'GET') {
    const page = prompt.name === 'login'
      ? loginPage(uid, ACCOUNTS)
      : consentPage(uid, params.client_id, ACCOUNTS[session.accountId], asked(params));
    return answerHtml(response, 200, page);
  }
  const form = new URLSearchParams(await body(request));
  const finish = (result) => provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
  if (form.get('decision') === 'cancel') {
    return finish({ error: 'access_denied', error_description: 'the person said no' });
  }
  if (prompt.name === 'login') {
    return finish({ login: { accountId: form.get('account') } });
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const ticked = form.getAll('scope');
  const unticked = asked(params).filter((scope) => !ticked.includes(scope));
  const unasked = (params.scope ?? '').split(' ').filter((scope) => UNASKED.includes(scope));
  grant.addOIDCScope([...unasked, ...ticked].join(' '));
  if (unticked.length > 0) grant.rejectOIDCScope(unticked.join(' '));
  return finish({ consent: { grantId: await grant.save() } });
};

// What tests do.
const mint = async ({ client_id, account, scope }) => {
  const client = await provider.Client.find(client_id);
  const grant = new provider.Grant({ accountId: account, clientId: client_id });
  grant.addOIDCScope(scope);
  const grantId = await grant.save();
  const authTime = Math.floor(Date.now() / 1000);
  const token = { accountId: account, client, grantId, gty: 'authorization_code', scope, authTime };
  const refresh_token = await new provider.RefreshToken({ ...token, rotations: 0, iiat: authTime }).save();
  const access_token = await new provider.AccessToken(token).save();
  return { grant: grantId, refresh_token, access_token };
};

const revoke = async (grant) => {
  for (const model of ['AccessToken', 'RefreshToken', 'AuthorizationCode']) {
    await provider[model].revokeByGrantId(grant);
  }
  const found = await provider.Grant.find(grant);
  if (found) await found.destroy();
};

const look = async (token) => {
  for (const [kind, model] of [['access', provider.AccessToken], ['refresh', provider.RefreshToken]]) {
    const found = await model.find(token);
    if (found) return { kind, grant: found.grantId, scope: found.scope, is_alive: found.isValid };
  }
  return { kind: 'unknown', is_alive: false };
};

const ADMIN = {
  async settings(given) {
    Object.assign(settings, given);
    graceOf(settings.grace_seconds);
    return settings;
  },
  async clients(client) {
    await new Memory('Client').upsert(client.client_id, client);
    // It is checked as at a registration.
    await provider.Client.find(client.client_id);
    return {};
  },
  async grants({ count, ...wanted }) {
    const minted = [];
    for (let made = 0; made < count; made += 1) minted.push(await mint(wanted));
    return minted;
  },
  async revoke({ grant }) {
    await revoke(grant);
    return {};
  },
  async token({ token }) {
    return look(token);
  },
  async held() {
    return held();
  },
};

const oauth = provider.callback();
server.on('request', async (request, response) => {
  const { pathname } = new URL(request.url, issuer);
  const [, first, second] = pathname.split('/');
  try {
    if (first === 'interaction') return await interact(request, response);
    if (first === 'admin') {
      const act = ADMIN[second];
      if (!act) return answerJson(response, 404, { error: 'no such act' });
      return answerJson(response, 200, await act(JSON.parse((await body(request)) || '{}')));
    }
    return await oauth(request, response);
  } catch (error) {
    const said = error.error_description ?? error.message;
    if (first === 'admin') return answerJson(response, 400, { error: said });
    return answerHtml(response, error.statusCode ?? 500, `<!doctype html><title>Error</title><h1>${error.name}</h1>`);
  }
});

process.stdin.resume().on('end', () => process.exit(0));
console.log(JSON.stringify({ issuer }));
