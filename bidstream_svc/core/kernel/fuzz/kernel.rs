//! Whatever a body, a layer of a token or a list of names contains, the kernel answers or does not: it does not panic.
//! Run by `make fuzz-kernel`.

#![no_main]

use std::sync::atomic::AtomicI64;

use aes::Aes256;
use aes::cipher::{Array, BlockModeEncrypt, KeyIvInit};
use bidstream_kernel::columns::{Columns, Layout, Scopes, Texts, Times, Validity, decrypt};
use bidstream_kernel::openrtb::{BidRequests, Sources, is_usual_text};
use bidstream_kernel::optout_ids::Run;
use bidstream_kernel::optouts::{OptOuts, Words};
use bidstream_kernel::{Builder, Kernel, Rules};
use libfuzzer_sys::fuzz_target;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

const NOW_MS: i64 = 1_700_000_000_000;
const SECRET: [u8; 32] = [7; 32];
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 12 {
        0 => use_body(data),
        1 => use_names(data),
        2 => use_body(&body(&[&[3, 128][..], data].concat())),
        3 => use_body(&body(&v3(data))),
        4 => use_body(&body(&v3(&[&[0x7F; 16][..], &[0; 13], &sealed(data)].concat()))),
        5 => use_body(&body(&[&[2, 0, 0, 0, 0][..], &blocks(data)].concat())),
        6 => use_body(&body(&[&[2, 0, 0, 0, 0][..], &padded_blocks(data)].concat())),
        8 => use_bid_request(data),
        9 => use_lines(data),
        10 => use_filter(data),
        11 => use_columns(data),
        _ => {
            let master = [&[0x7F; 8][..], &[0; 4], &padded_blocks(data)].concat();
            use_body(&body(&[&[2, 0, 0, 0, 0][..], &padded_blocks(&master)].concat()));
        }
    }
});

fn kernel(names: &[u8]) -> Kernel {
    let mut builder = Builder::new(Rules {
        scope_bit: 0,
        checks_domains: true,
        max_lifetime_ms: None,
        clock_skew_ms: i128::MAX,
        last_expiry_ms: i128::MAX,
    });
    builder.add_key(0, &SECRET).unwrap();
    builder.add_site(0, names);
    builder.build()
}

fn use_body(body: &[u8]) {
    let kernel = kernel(br#"["example.com","a"]"#);
    let answer = kernel.answer(body, NOW_MS, |success| {
        success.encode(|length, write| {
            let mut out = vec![0; length];
            write(&mut out).map(|()| out)
        })
    });
    // It is JSON text, whatever the token contains.
    assert!(answer.is_none_or(|answer| answer.iter().all(|byte| matches!(byte, b' '..=b'~'))));
    let batch = [&b"{\"requests\":["[..], body, b"]}"].concat();
    for body in [body, &batch] {
        if let Some(answer) = kernel.answer_batch(body, NOW_MS) {
            assert!(answer.left.iter().all(|left| left.gap < answer.json.len() && left.request.end <= body.len()));
        }
    }
}

fn use_names(data: &[u8]) {
    let (name, names) = data.split_at(data.len() / 2);
    let token = good_token(2);
    let body = [&br#"{"domain":""#[..], name, br#"","token":""#, token.as_bytes(), br#""}"#].concat();
    for names in [names, &[&b"[\""[..], name, b"\"]"].concat()] {
        let _ = kernel(names).answer(&body, NOW_MS, |_| Some(()));
    }
}

/// `@` in it stands for a good token, `%` for one that needs a name.
fn use_bid_request(data: &[u8]) {
    let mut body = Vec::new();
    for byte in data {
        match byte {
            b'@' => body.extend(good_token(1).bytes()),
            b'%' => body.extend(good_token(2).bytes()),
            _ => body.push(*byte),
        }
    }
    let (kernel, sources) = (kernel(br#"["example.com","a"]"#), Sources(vec![("uidapi.com".to_owned(), 0)]));
    let bid_requests = BidRequests { kernels: [Some(&kernel), None], sources: &sources };
    let (found, rewritten) = (bid_requests.find(&body, NOW_MS), bid_requests.rewrite(&body, NOW_MS));
    assert_eq!(found.is_some(), rewritten.is_some());
    let (Some(found), Some(rewritten)) = (found, rewritten) else { return };
    assert_eq!((found.entries, found.tokens), (rewritten.entries, rewritten.tokens));
    assert!([&body, &found.body, &rewritten.body].iter().all(|json| is_usual_text(json, 64)));
    // Raw uids are not tokens.
    assert_eq!(bid_requests.find(&rewritten.body, NOW_MS).is_some(), found.entries == 0);
}

/// Lines of an import of opt-outs.
fn use_lines(data: &[u8]) {
    let mut run = Run::default();
    let (others, count) = run.add_lines(data, 7);
    assert!(others.is_sorted() && others.iter().all(|number| *number < count));
    assert!(run.record_count() + others.len() <= count);
    run.sort();
    let (short, [long, with_bit]) = run.take(true);
    assert!(short.windows(2).all(|pair| pair[0][..32] < pair[1][..32]));
    for long in [long, with_bit] {
        assert!(long.windows(2).all(|pair| pair[0][..33] < pair[1][..33]));
    }
}

/// Buffers of any content and length: they are refused, or there is a status for each row.
fn use_columns(data: &[u8]) {
    let Some((head, data)) = data.split_first_chunk::<8>() else { return };
    let [flags, count, first, lengths @ ..] = *head;
    let mut rest = data;
    let [validity, mut offsets, scopes, times, _] = lengths.map(|length| {
        let (part, behind) = rest.split_at(usize::from(length).min(rest.len()));
        rest = behind;
        part.to_vec()
    });
    let is_large = flags & 1 != 0;
    if flags & 2 != 0 {
        // Small numbers are more often right.
        let keeps = |place: usize| place % if is_large { 8 } else { 4 } == 0;
        offsets.iter_mut().enumerate().filter(|(place, _)| !keeps(*place)).for_each(|(_, byte)| *byte = 0);
    }
    let tokens = [rest, good_token(1).as_bytes(), b"example.com", good_token(2).as_bytes()].concat();
    let (count, first) = (usize::from(count) % 40, usize::from(first) % 10);
    let bits = (flags & 4 != 0).then_some(validity.as_slice());
    let validity = Validity { bits, first };
    let texts = Texts { validity, is_large, offsets: &offsets, data: &tokens };
    let columns = Columns {
        count,
        tokens: texts,
        domains: (flags & 8 != 0).then_some(texts),
        scopes: if flags & 16 != 0 { Scopes::Each(&scopes) } else { Scopes::Same(flags >> 5) },
        times: if flags & 32 != 0 { Times::Each(validity, &times) } else { Times::Same(NOW_MS) },
    };
    let layout = Layout::new(count).unwrap();
    let mut block = vec![0; layout.length()];
    let kernel = kernel(br#"["example.com","a"]"#);
    let Ok(written) = decrypt(&columns, &[&kernel], NOW_MS, &layout, &mut block) else { return };
    assert!(written.left.is_sorted_by_key(|left| left.row) && written.left.iter().all(|left| left.row < count));
    assert!(written.opened.iter().all(|opened| opened.row < count && opened.kernel == 0));
    let uids = &block[block.len() - 44 * count..][..written.uid_bytes];
    assert!(uids.iter().all(|byte| matches!(byte, b' '..=b'~')));
}

/// No id that was added to a filter is absent.
fn use_filter(data: &[u8]) {
    let words = |count: usize| -> Words { Box::new((0..count).map(|_| AtomicI64::new(1)).collect::<Vec<_>>()) };
    let optouts = OptOuts::new(words(8), false).unwrap();
    optouts.map(words(64), [7; 16], 1).unwrap();
    let ids: Vec<_> = data.chunks_exact(33).collect();
    optouts.add(&ids).unwrap();
    assert!(ids.iter().all(|id| optouts.may_contain(id[0], &id[1..])));
    assert!(optouts.add(&[data]).is_ok() == matches!(data.len(), 33 | 34));
}

fn good_token(privacy_bits: u32) -> String {
    let site = [&[0; 16][..], &privacy_bits.to_be_bytes(), &[0; 48]].concat();
    base64(&v3(&[&[0x7F; 16][..], &[0; 13], &sealed(&site)].concat()))
}

fn body(token: &[u8]) -> Vec<u8> {
    format!(r#"{{"token":"{}","domain":"example.com"}}"#, base64(token)).into_bytes()
}

fn v3(master_layer: &[u8]) -> Vec<u8> {
    [&[3, 128][..], &sealed(master_layer)].concat()
}

/// Key id, iv, ciphertext and tag.
fn sealed(plaintext: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &SECRET).unwrap());
    let mut sealed = plaintext.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut sealed).unwrap();
    [&[0; 4 + 12][..], &sealed].concat()
}

fn padded_blocks(plaintext: &[u8]) -> Vec<u8> {
    let padding = 16 - plaintext.len() % 16;
    blocks(&[plaintext, &vec![padding as u8; padding]].concat())
}

/// iv and ciphertext of the whole blocks of a text.
fn blocks(plaintext: &[u8]) -> Vec<u8> {
    let mut blocks = plaintext[..plaintext.len() / 16 * 16].to_vec();
    let mut cipher = cbc::Encryptor::<Aes256>::new(&SECRET.into(), &[0; 16].into());
    cipher.encrypt_blocks(Array::slice_as_chunks_mut(&mut blocks).0);
    [&[0; 16][..], &blocks].concat()
}

fn base64(raw: &[u8]) -> String {
    let mut text = String::new();
    for group in raw.chunks(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
