# ruff: noqa: ANN001, ANN201, ANN204, B006, BLE001, E501, I001, N801, N805, N816, PLC0415, Q000, S310, SIM108, T201
# mypy: ignore-errors
# fmt: off
#
# The script of the reference document "Encrypting Requests and Decrypting Responses", with which
# tests/cli_clients/test_request.py compares `bidstream-svc request`. The page had lost its indentation, which is put
# back, and two imports are replaced because their packages are not in the lock:
# `from Cryptodome.Cipher import AES` by the same code under its other name, and `requests` by the few lines below.
"""
Usage:
echo '<json>' | python3 uid2_request.py <url> <api_key> <client_secret>

Example:
echo '{"email": "test@example.com"}' | python3 uid2_request.py https://prod.euid.eu/v2/token/generate PRODGwJ0hP19QU4hmpB64Y3fV2dAed8t/mupw3sjN5jNRFzg= wJ0hP19QU4hmpB64Y3fV2dAed8t/mupw3sjN5jNRFzg=


Refresh Token Usage:
python3 uid2_request.py <url> --refresh-token <refresh_token> <refresh_response_key>

Refresh Token Usage example:
python3 uid2_request.py https://prod.euid.eu/v2/token/refresh --refresh-token AAAAAxxJ...(truncated, total 388 chars) v2ixfQv8eaYNBpDsk5ktJ1yT4445eT47iKC66YJfb1s=

"""

import base64
import os
import sys
import time
import json

from Crypto.Cipher import AES


class requests:
    def post(url, data, headers={}):
        import urllib.error
        import urllib.request

        request = urllib.request.Request(url, data.encode(), {"Content-Type": "text/plain", **headers})
        try:
            with urllib.request.urlopen(request) as response:
                return requests.Response(response.status, response.read())
        except urllib.error.HTTPError as response:
            with response:
                return requests.Response(response.code, response.read())

    class Response:
        def __init__(self, status_code, content):
            self.status_code = status_code
            self.content = content


def b64decode(b64string, param):
    try:
        return base64.b64decode(b64string)
    except Exception:
        print(f"Error: <{param}> is not base64 encoded")
        sys.exit()

if len(sys.argv) != 4 and len(sys.argv) != 5:
    print(__doc__)
    sys.exit()

url = sys.argv[1]

is_refresh = 1 if sys.argv[2] == '--refresh-token' else 0
if is_refresh:
    refresh_token = sys.argv[3]
    secret = b64decode(sys.argv[4], "refresh_response_key")
    print(f"\nRequest: Sending refresh_token to {url}\n")
    http_response = requests.post(url, refresh_token)
else:
    api_key = sys.argv[2]
    secret = b64decode(sys.argv[3], "client_secret")
    payload = "".join(sys.stdin.readlines())

    iv = os.urandom(12)
    cipher = AES.new(secret, AES.MODE_GCM, nonce=iv)

    millisec = int(time.time() * 1000)
    request_nonce = os.urandom(8)

    print(f"\nRequest: Encrypting and sending to {url} : {payload}")

    body = bytearray(millisec.to_bytes(8, 'big'))
    body += bytearray(request_nonce)
    body += bytearray(bytes(payload, 'utf-8'))

    ciphertext, tag = cipher.encrypt_and_digest(body)

    envelope = bytearray(b'\x01')
    envelope += bytearray(iv)
    envelope += bytearray(ciphertext)
    envelope += bytearray(tag)

    base64Envelope = base64.b64encode(bytes(envelope)).decode()

    http_response = requests.post(url, base64Envelope, headers={"Authorization": "Bearer " + api_key})

# Decryption
response = http_response.content
if http_response.status_code != 200:
    print(f"Response: Error HTTP status code {http_response.status_code}", end=", check api_key\n" if http_response.status_code == 401 else "\n")
    print(response.decode("utf-8"))
else:
    resp_bytes = base64.b64decode(response)
    iv = resp_bytes[:12]
    data = resp_bytes[12:len(resp_bytes) - 16]
    tag = resp_bytes[len(resp_bytes) - 16:]

    cipher = AES.new(secret, AES.MODE_GCM, nonce=iv)
    decrypted = cipher.decrypt_and_verify(data, tag)

    if is_refresh != 1:
        json_resp = json.loads(decrypted[16:].decode("utf-8"))
    else:
        json_resp = json.loads(decrypted.decode("utf-8"))

    print("Response JSON:")
    print(json.dumps(json_resp, indent=4))
