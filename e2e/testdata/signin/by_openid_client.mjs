// Signs in by openid-client. Prints where its person is to go, reads where they came back to, and fails
// at the first answer that is not as it should be.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { createInterface } from "node:readline/promises";

const require = createRequire(process.env.PACKAGES + "/");
const oidc = await import(require.resolve("openid-client"));
const { GATEWAY: gateway, CALLBACK: redirect_uri, JOB_ID, JOB_SECRET, WEB_ID, WEB_SECRET } = process.env;
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const found = (id, secret) => oidc.discovery(new URL(gateway), id, secret, undefined, { execute: [oidc.allowInsecureRequests] });

const job = await found(JOB_ID, JOB_SECRET);
const service = await oidc.clientCredentialsGrant(job, { scope: "tokens.read" });
assert.equal((await oidc.tokenIntrospection(job, service.access_token)).active, true);

const web = await found(WEB_ID, WEB_SECRET);
const pkceCodeVerifier = oidc.randomPKCECodeVerifier();
const expectedState = oidc.randomState();
const expectedNonce = oidc.randomNonce();
const code_challenge = await oidc.calculatePKCECodeChallenge(pkceCodeVerifier);
const address = oidc.buildAuthorizationUrl(web, { redirect_uri, scope: "openid profile tokens.read offline_access", code_challenge,
  code_challenge_method: "S256", state: expectedState, nonce: expectedNonce });
console.log("sign in:", address.href);
const back = new URL((await lines.next()).value);
let tokens = await oidc.authorizationCodeGrant(web, back, { pkceCodeVerifier, expectedState, expectedNonce, idTokenExpected: true });
const { sub } = tokens.claims();
assert.equal((await oidc.fetchUserInfo(web, tokens.access_token, sub)).sub, sub);
const refreshed = await oidc.refreshTokenGrant(web, tokens.refresh_token);
assert.notEqual(refreshed.access_token, tokens.access_token);
await oidc.tokenRevocation(web, refreshed.refresh_token);
await assert.rejects(oidc.refreshTokenGrant(web, refreshed.refresh_token), (e) => e.error === "invalid_grant");

const device = await oidc.initiateDeviceAuthorization(web, { scope: "openid tokens.read" });
console.log("device:", device.user_code);
tokens = await oidc.pollDeviceAuthorizationGrant(web, device);
assert.equal(tokens.claims().sub, sub);
const end = oidc.buildEndSessionUrl(web, { id_token_hint: tokens.id_token });
assert.ok((await fetch(end, { redirect: "manual" })).status < 400);
console.log("done:", sub);
process.exit(0);
