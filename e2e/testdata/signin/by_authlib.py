# Signs in by Authlib. Prints where its person is to go, reads where they came back to, and fails at
# the first answer that is not as it should be.
import os
import requests
from authlib.common.security import generate_token
from authlib.integrations.requests_client import OAuth2Session
from joserfc import jwt
from joserfc.jwk import KeySet

gateway = os.environ["GATEWAY"]
callback = os.environ["CALLBACK"]
found = requests.get(gateway + "/.well-known/openid-configuration").json()
assert found["issuer"] == gateway

job = OAuth2Session(os.environ["JOB_ID"], os.environ["JOB_SECRET"], scope="tokens.read")
token = job.fetch_token(found["token_endpoint"], grant_type="client_credentials")
assert job.introspect_token(found["introspection_endpoint"], token=token["access_token"]).json()["active"]
assert job.get(gateway + "/v1/models").status_code == 200

web = OAuth2Session(os.environ["WEB_ID"], os.environ["WEB_SECRET"], scope="openid profile tokens.read offline_access",
                    redirect_uri=callback, code_challenge_method="S256")
verifier, nonce = generate_token(48), generate_token(20)
uri, state = web.create_authorization_url(found["authorization_endpoint"], code_verifier=verifier, nonce=nonce)
print("sign in:", uri, flush=True)
token = web.fetch_token(found["token_endpoint"], authorization_response=input(), code_verifier=verifier, state=state)
keys = KeySet.import_key_set(requests.get(found["jwks_uri"]).json())
claims = jwt.decode(token["id_token"], keys, algorithms=found["id_token_signing_alg_values_supported"]).claims
assert claims["nonce"] == nonce and claims["aud"] in (os.environ["WEB_ID"], [os.environ["WEB_ID"]]), claims
assert web.get(found["userinfo_endpoint"]).json()["sub"] == claims["sub"]
assert web.get(gateway + "/v1/models").status_code == 200

before = web.token["access_token"]
web.refresh_token(found["token_endpoint"], refresh_token=token["refresh_token"])
assert web.token["access_token"] != before
assert web.get(found["userinfo_endpoint"]).json()["sub"] == claims["sub"]
web.revoke_token(found["revocation_endpoint"], token=web.token["refresh_token"], token_type_hint="refresh_token").raise_for_status()
again = requests.post(found["token_endpoint"], auth=(os.environ["WEB_ID"], os.environ["WEB_SECRET"]),
                      data={"grant_type": "refresh_token", "refresh_token": web.token["refresh_token"]})
assert again.status_code == 400 and again.json()["error"] == "invalid_grant", again.text
print("done:", claims["sub"])
