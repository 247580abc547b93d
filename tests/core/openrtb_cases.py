"""Bid requests of our own. `python -m tests.core.openrtb_cases` writes tests/data/openrtb: request, answer, rewrite.

`@NAME@` stands for one of `_PARTS` or for a token of `TOKENS`. The expected files are those of the plain
implementation; review a change of one as a change of what users get.
"""

import json
import re
from pathlib import Path

from tests.core.openrtb_oracle import expected
from tests.core.openrtb_strategies import TOKENS
from tests.vectors.inputs import NOW_MS
from tests.vectors.load import key_snapshot

DIRECTORY = Path(__file__).parent.parent / "data" / "openrtb"

_PARTS = {
    "@UIDS@": '"uids":[{"id":"@V4@","atype":3}]',
    "@EIDS@": '"eids":[{"source":"uidapi.com","uids":[{"id":"@V4@","atype":3}]}]',
    "@CLIENT_SIDE_USER@": '"user":{"eids":[{"source":"uidapi.com","uids":[{"id":"@CLIENT_SIDE@"}]}]}',
}

BID_REQUESTS: dict[str, str] = {
    # Where tokens stand
    "2.6-site": (
        '{"id":"r1","imp":[{"id":"1","bidfloor":1.10}],"site":{"id":"7","page":"https://example.c'
        'om/"},"user":{"id":"u",@EIDS@},"tmax":1e3}'
    ),
    "2.5-app": '{"id":"r1","app":{"bundle":"com.acme.shooter"},"user":{"ext":{"consent":"CP",@EIDS@}}}',
    "2.6-dooh": '{"id":"r1","dooh":{"id":"9","domain":"example.com"},@CLIENT_SIDE_USER@}',
    "2.6-ctv": (
        '{"id":"r1","app":{"bundle":"com.acme.shooter","content":{"genre":"news"}},"device":{"dev'
        'icetype":3,"ifa":"0"},@CLIENT_SIDE_USER@}'
    ),
    "2.6-many-members-of-an-eid": (
        '{"user":{"eids":[{"inserter":"a.com","matcher":"b.com","mm":"3","source":"uidapi.com","u'
        'ids":[{"id":"@V4@","atype":"3","ext":{"rtiPartner":"UID2"}}],"ext":{"id":1}}]}}'
    ),
    "3.0": (
        '{"openrtb":{"ver":"3.0","domainspec":"adcom","request":{"id":"r3","context":{"site":{"do'
        'main":"example.com"},"user":{@EIDS@}}}}}'
    ),
    "3.0-app-storeid": (
        '{"openrtb":{"request":{"id":"r3","context":{"app":{"bundle":"x","storeid":"com.acme.shoo'
        'ter"},@CLIENT_SIDE_USER@}}}}'
    ),
    "3.0-user-beside": '{"id":"r2","user":{@EIDS@},"openrtb":{"request":{"id":"r3"}}}',
    "3.0-of-another-type": '{"id":"r2","user":{@EIDS@},"openrtb":"3.0"}',
    "3.0-without-context": '{"openrtb":{"request":{"id":"r3","context":null}}}',
    "both-places-same-token": '{"user":{@EIDS@,"ext":{@EIDS@}}}',
    "both-places-ext-first": '{"user":{"ext":{"eids":[{"source":"uidapi.com","uids":[{"id":"@V3@"}]}]},@EIDS@}}',
    "device-eids": '{"device":{@EIDS@},"user":{}}',
    "no-user": '{"id":"r1","site":{"domain":"example.com"}}',
    # Whose
    "all-versions": ('{"user":{"eids":[{"source":"uidapi.com","uids":[{"id":"@V4@"},{"id":"@V3@"},{"id":"@V2@"}]}]}}'),
    "two-programmes": (
        '{"user":{"eids":[{"source":"euid.eu","uids":[{"id":"@EUID@"}]},{"source":"uidapi.com",@UIDS@}]}}'
    ),
    "scope-is-not-the-source": (
        '{"user":{"eids":[{"source":"euid.eu","uids":[{"id":"@V4@"}]},{"source":"uidapi.com","uid'
        's":[{"id":"@EUID@"},{"id":"@V4@"}]}]}}'
    ),
    "foreign-sources": (
        '{"user":{"eids":[{"source":"liveramp.com","uids":[{"id":"@V4@"}]},{"source":"uidapi.com"'
        ',@UIDS@},{"source":"uidapi.com.example.org","uids":[{"id":"x"}]}]}}'
    ),
    "source-in-upper-case": '{"user":{"eids":[{"source":"UIDAPI.COM",@UIDS@}]}}',
    "source-with-a-space": '{"user":{"eids":[{"source":"uidapi.com ",@UIDS@}]}}',
    "same-token-elsewhere": '{"user":{@EIDS@,"buyeruid":"@V4@"},"imp":[{"tagid":"@V4@"}]}',
    # Verdicts
    "every-failure": (
        '{"site":{"domain":"other.org"},"user":{"eids":[{"source":"uidapi.com","uids":[{"id":"@EX'
        'PIRED@"},{"id":"@CLIENT_SIDE@"},{"id":"@OPTED_OUT@"},{"id":"@OTHER_SITE@"},{"id":"@V4@"}'
        ',{"id":"AAAA"}]}]},"x":1}'
    ),
    "matched-and-too-long": (
        '{"site":{"domain":"example.com"},"user":{"eids":[{"source":"uidapi.com","uids":[{"id":"@'
        'CLIENT_SIDE_TOO_LONG@"}]}]}}'
    ),
    "not-tokens": (
        '{"user":{"eids":[{"source":"uidapi.com","uids":[{"id":""},{"id":"UID2:@V4@"},{"id":"{{ui'
        'd}}"},{"id":" @V4@"},{"id":"%41"},{"id":7},{"id":null},{}]}]}}'
    ),
    "eid-loses-its-last": (
        '{"user":{"eids":[ {"source":"uidapi.com","uids":[{"id":"x"}]} , {"source":"a.com","uids"'
        ':[]}, {"source":"uidapi.com","uids":[ ]} ],"ext":{"eids":[{"source":"euid.eu","uids":[{"'
        'id":"x"}]}]}}}'
    ),
    "uids-first-and-last-removed": (
        '{"user":{"eids":[{"source":"uidapi.com","uids":[ {"id":"x"} , {"id":"@V4@"} , {"id":"y"}'
        ' , {"n":1} , {"id":"z"} ]}]}}'
    ),
    # Candidates
    "site-domain": '{"site":{"domain":"WWW.Example.com."},@CLIENT_SIDE_USER@}',
    "site-domain-is-a-url": '{"site":{"domain":"https://example.com:8080/x"},@CLIENT_SIDE_USER@}',
    "site-page": ('{"site":{"domain":"other.org","page":"//shop.example.net/x?u=http://y.org"},@CLIENT_SIDE_USER@}'),
    "site-page-without-scheme": r'{"site":{"page":"example.com\\x"},@CLIENT_SIDE_USER@}',
    "site-page-idna": r'{"site":{"page":"http://www.xn--bcher-kva.de/\ud800"},@CLIENT_SIDE_USER@}',
    "app-bundle-number": '{"app":{"bundle":123456789},@CLIENT_SIDE_USER@}',
    "app-domain": '{"app":{"bundle":["x"],"domain":"example.com"},@CLIENT_SIDE_USER@}',
    "app-storeurl-google": (
        r'{"app":{"storeurl":"https://play.google.com/store/apps/details?hl=en&id\u003dcom.acme.sh'
        'ooter"},@CLIENT_SIDE_USER@}'
    ),
    "first-candidate-counts": (
        '{"app":{"bundle":"com.acme.shooter"},"site":{"page":"http://example.com"},@CLIENT_SIDE_USER@}'
    ),
    "candidates-of-the-wrong-type": '{"site":{"domain":{"x":1},"page":7},"app":"com.acme.shooter",@CLIENT_SIDE_USER@}',
    # Wrong types, each passed over by itself
    "wrong-types": (
        '{"id":7,"site":"example.com","user":{"eids":[null,7,{"source":7,"uids":[{"id":"@V4@"}]},'
        '{"source":"uidapi.com","uids":"x"},{"source":"uidapi.com","uids":[7,null,{"id":"@V4@"}]}'
        ',[]],"ext":[]}}'
    ),
    "eids-of-the-wrong-type": '{"id":null,"user":{"eids":{"source":"uidapi.com"},"ext":{@EIDS@}}}',
    "user-of-the-wrong-type": '{"id":"r1","user":"@V4@"}',
    # Spelling
    "escapes-in-names": (
        r'{"\u0075ser":{"\u0065ids":[{"sourc\u0065":"uid\u0061pi.com","uids":[{"\u0069d":"@V4@"}]}'
        "]}}"
    ),
    "escapes-in-values": (
        r'{"id":"r\u0031","user":{"eids":[{"source":"uidapi.com","uids":[{"id":"\u0041@V4@"}]}]},"'
        r'u":"a\/b\u0026","e":"\ud83d\ude00"}'
    ),
    "lone-surrogates": r'{"id":"\ud800","x\udfff":"\ud800","user":{@EIDS@}}',
    "numbers-as-they-came": '{"a":1.10,"b":1e3,"c":1e400,"d":-0.0,"e":999999999999999999999999999999,"user":{@EIDS@}}',
    "white-space": (
        '\r\n{ "user" :\t{ "eids" : [ { "source" : "uidapi.com" , "uids" : [ { "id" : "@V4@" } ] } ] } }\n'
    ),
    "bom": '\ufeff{"user":{@EIDS@}}',
    "not-ascii": '{"user":{@EIDS@},"site":{"name":"Bücher ☃"}}',
    # Duplicates: the last one counts
    "two-users": '{"user":{@EIDS@,"a":1},"user":{"b":1}}',
    "two-users-one-with-escapes": (
        r'{"user":{"\u0065ids":[{"source":"uidapi.com","\u0075ids":[{"id":"@V3@"}]}]},'
        '"user":{@EIDS@}}'
    ),
    "two-lists-of-eids": '{"user":{@EIDS@,"eids":[{"source":"uidapi.com","uids":[{"id":"@V3@"}]}]}}',
    "two-lists-of-uids": '{"user":{"eids":[{"source":"uidapi.com",@UIDS@,"uids":[{"id":"@V3@"}]}]}}',
    "two-ids": ('{"id":"a","id":"b","user":{"eids":[{"source":"uidapi.com","uids":[{"id":"@V3@", "id":"@V4@"}]}]}}'),
    "two-sources": '{"user":{"eids":[{"source":"x.com",@UIDS@,"source":"uidapi.com"}]}}',
    "two-sites": '{"site":{"domain":"example.com"},@CLIENT_SIDE_USER@,"site":{"domain":"other.org"}}',
    # Empty
    "empty": "{}",
    "depth-64": '{"x":' + "[" * 63 + "]" * 63 + ',"user":{@EIDS@}}',
}

REFUSED: dict[str, bytes] = {
    "empty": b"",
    "array": b"[]",
    "string": b'"x"',
    "cut": b'{"id":"r1"',
    "trailing": b'{"id":"r1"} x',
    "trailing-comma": b'{"id":"r1",}',
    "nan": b'{"id":"r1","x":NaN}',
    "infinity": b'{"x":-Infinity}',
    "leading-zero": b'{"x":01}',
    "control-character": b'{"x":"\x01"}',
    "nul": b'{"x":"\0"}',
    "bad-escape": b'{"x":"\\q"}',
    "invalid-utf-8": b'{"x":"\xff"}',
    "surrogate-in-utf-8": b'{"x":"\xed\xa0\x80"}',
    "utf-16": '{"id":"r1"}'.encode("utf-16"),
    "two-boms": b'\xef\xbb\xbf\xef\xbb\xbf{"id":"r1"}',
    "depth-65": b'{"x":' + b"[" * 64 + b"]" * 64 + b"}",
}


def files() -> dict[str, bytes]:
    """Every file of the directory."""
    keys = [each for each in (key_snapshot("uid2"), key_snapshot("euid")) if each is not None]
    contents = {f"{name}.refused": body for name, body in REFUSED.items()}
    for name, text in BID_REQUESTS.items():
        for placeholder, part in _PARTS.items():
            text = text.replace(placeholder, part)  # noqa: PLW2901
        body = re.sub(r"@(\w+)@", lambda found: TOKENS[found[1]], text).encode()
        wanted = expected(body, keys, NOW_MS)
        contents[f"{name}.request"] = body
        contents[f"{name}.answer"] = json.dumps(wanted.answer(), indent=1).encode() + b"\n"
        contents[f"{name}.rewritten"] = wanted.rewritten.encode()
    return contents


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for file_name, content in files().items():
        (DIRECTORY / file_name).write_bytes(content)
