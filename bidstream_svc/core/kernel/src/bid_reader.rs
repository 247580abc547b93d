//! What is needed of a bid request, if everything that is needed is in the plain spelling.
//!
//! The objects on the way to a token or to a name are objects, no name in them has an escape, and none of those that
//! matter is there twice. Every other value is any JSON.

use crate::scanner::{Scanner, Text};

const MAX_DEPTH: u32 = 64;
const MAX_ENTRIES: usize = 100;

/// The programme of each source of eids, which is in lower case. Sources are compared without ASCII case.
pub struct Sources(pub Vec<(String, usize)>);

impl Sources {
    fn programme_of(&self, source: &[u8]) -> Option<usize> {
        let is_it = |known: &str| source.iter().map(u8::to_ascii_lowercase).eq(known.bytes());
        self.0.iter().find(|(known, _)| source.is_ascii() && is_it(known)).map(|(_, programme)| *programme)
    }
}

/// An entry of `uids` of one of our sources.
pub struct Entry<'body> {
    pub is_in_ext: bool,
    pub eid: usize,
    pub uid: usize,
    pub source: &'body [u8],
    pub programme: usize,
    pub token: &'body [u8],
    /// Where the token begins in the body.
    pub start: usize,
}

/// A field that has a domain or app name, and the name.
pub type Name<'body> = (&'static str, &'body [u8]);

/// What is read of a bid request.
#[derive(Default)]
pub struct BidRequest<'body> {
    /// `id` as it is spelled, if it is a string.
    pub id: Option<Text<'body>>,
    /// As they stand in the body.
    pub entries: Vec<Entry<'body>>,
    pub is_3_0: bool,
    domain: Option<Text<'body>>,
    page: Option<Text<'body>>,
    bundle: Option<Text<'body>>,
}

impl<'body> BidRequest<'body> {
    /// Reads a body; None if it is not plain, or has more tokens than are decrypted.
    pub fn read(body: &'body [u8], sources: &Sources) -> Option<Self> {
        let mut scanner = Scanner::new(body, MAX_DEPTH)?;
        let mut reader = Reader { sources, length: body.len(), seen: Seen::default(), request: Self::default() };
        reader.read(&mut scanner)?;
        scanner.is_at_end().then_some(reader.request)
    }

    /// The first name for the domain check. None if there is none, or it is not in the plain spelling.
    pub fn first_name(&self) -> Option<Name<'body>> {
        let is_given = |text: &&Text<'_>| !text.0.is_empty();
        if let Some(domain) = self.domain.as_ref().filter(is_given) {
            return Some(("site.domain", host_of(domain.0)?));
        }
        if let Some(page) = self.page.as_ref().filter(is_given) {
            return Some(("site.page", host_of(page.0)?));
        }
        let bundle = self.bundle?.0;
        let is_number = bundle.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(b"id")); // of a store, perhaps
        (!bundle.is_empty() && !is_number && name_length(bundle) == bundle.len()).then_some(("app.bundle", bundle))
    }
}

/// The host in a URL as it is spelled in JSON; None unless it is certain. As of `core/openrtb/bid_names.py`.
fn host_of(url: &[u8]) -> Option<&[u8]> {
    let location = url.strip_prefix(b"https://").or_else(|| url.strip_prefix(b"http://")).unwrap_or(url);
    let (host, left) = location.split_at_checked(name_length(location))?;
    (!host.is_empty() && matches!(left, [] | [b'/' | b'?' | b'#', ..])).then_some(host)
}

/// The length of the name that a text begins with.
fn name_length(text: &[u8]) -> usize {
    let is_in_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    text.iter().position(|byte| !is_in_name(byte)).unwrap_or(text.len())
}

/// The members that were read.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools)] // one for each
struct Seen {
    id: bool,
    user: bool,
    site: bool,
    app: bool,
    openrtb: bool,
}

/// Notes a member; None if it was there before.
fn once(is_seen: &mut bool) -> Option<()> {
    (!std::mem::replace(is_seen, true)).then_some(())
}

struct Reader<'sources, 'body> {
    sources: &'sources Sources,
    length: usize,
    seen: Seen,
    request: BidRequest<'body>,
}

impl<'body> Reader<'_, 'body> {
    fn read(&mut self, scanner: &mut Scanner<'body>) -> Option<()> {
        let mut wrapped = None;
        scanner.object(|scanner, name| match name.plain()? {
            b"openrtb" => {
                once(&mut self.seen.openrtb)?;
                wrapped = Some(*scanner);
                scanner.skip()
            }
            b"id" => self.read_id(scanner),
            name => self.read_of_context(scanner, name),
        })?;
        let Some(mut wrapped) = wrapped else { return Some(()) };
        if self.seen.id || self.seen.user || self.seen.site || self.seen.app {
            return None; // they do not count beside it
        }
        self.request.is_3_0 = true;
        self.read_3_0(&mut wrapped)
    }

    fn read_3_0(&mut self, scanner: &mut Scanner<'body>) -> Option<()> {
        let (mut has_request, mut has_context) = (false, false);
        scanner.object(|scanner, name| match name.plain()? {
            b"request" => {
                once(&mut has_request)?;
                scanner.object(|scanner, name| match name.plain()? {
                    b"id" => self.read_id(scanner),
                    b"context" => {
                        once(&mut has_context)?;
                        scanner.object(|scanner, name| self.read_of_context(scanner, name.plain()?))
                    }
                    _ => scanner.skip(),
                })
            }
            _ => scanner.skip(),
        })
    }

    fn read_id(&mut self, scanner: &mut Scanner<'body>) -> Option<()> {
        once(&mut self.seen.id)?;
        self.request.id = read_if_string(scanner)?;
        Some(())
    }

    fn read_of_context(&mut self, scanner: &mut Scanner<'body>, name: &[u8]) -> Option<()> {
        match name {
            b"user" => once(&mut self.seen.user).and_then(|()| self.read_user(scanner)),
            b"site" => once(&mut self.seen.site).and_then(|()| self.read_site(scanner)),
            b"app" => once(&mut self.seen.app).and_then(|()| self.read_app(scanner)),
            _ => scanner.skip(),
        }
    }

    fn read_site(&mut self, scanner: &mut Scanner<'body>) -> Option<()> {
        let (mut has_domain, mut has_page) = (false, false);
        scanner.object(|scanner, name| {
            match name.plain()? {
                b"domain" => {
                    once(&mut has_domain)?;
                    self.request.domain = read_if_string(scanner)?;
                }
                b"page" => {
                    once(&mut has_page)?;
                    self.request.page = read_if_string(scanner)?;
                }
                _ => scanner.skip()?,
            }
            Some(())
        })
    }

    fn read_app(&mut self, scanner: &mut Scanner<'body>) -> Option<()> {
        let mut has_bundle = false;
        scanner.object(|scanner, name| {
            if name.plain()? != b"bundle" {
                return scanner.skip();
            }
            once(&mut has_bundle)?;
            self.request.bundle = read_if_string(scanner)?;
            Some(())
        })
    }

    fn read_user(&mut self, scanner: &mut Scanner<'body>) -> Option<()> {
        let (mut has_eids, mut has_ext, mut has_eids_in_ext) = (false, false, false);
        scanner.object(|scanner, name| match name.plain()? {
            b"eids" => once(&mut has_eids).and_then(|()| self.read_eids(scanner, false)),
            b"ext" => {
                once(&mut has_ext)?;
                scanner.object(|scanner, name| match name.plain()? {
                    b"eids" => once(&mut has_eids_in_ext).and_then(|()| self.read_eids(scanner, true)),
                    _ => scanner.skip(),
                })
            }
            _ => scanner.skip(),
        })
    }

    fn read_eids(&mut self, scanner: &mut Scanner<'body>, is_in_ext: bool) -> Option<()> {
        let mut eid = 0_usize;
        scanner.array(|scanner| {
            let (mut source, mut uids) = (None, None);
            scanner.object(|scanner, name| match name.plain()? {
                b"source" if source.is_none() => {
                    source = Some(scanner.string()?.plain()?);
                    Some(())
                }
                b"uids" if uids.is_none() => {
                    uids = Some(*scanner); // its source may be behind it
                    scanner.skip()
                }
                b"source" | b"uids" => None,
                _ => scanner.skip(),
            })?;
            if let (Some(source), Some(mut uids)) = (source, uids) {
                if let Some(programme) = self.sources.programme_of(source) {
                    let like = Entry { is_in_ext, eid, uid: 0, source, programme, token: b"", start: 0 };
                    self.read_uids(&mut uids, &like)?;
                }
            }
            eid = eid.checked_add(1)?;
            Some(())
        })
    }

    /// Reads entries that are `like` one, but for their own fields.
    fn read_uids(&mut self, scanner: &mut Scanner<'body>, like: &Entry<'body>) -> Option<()> {
        let mut uid = 0_usize;
        scanner.array(|scanner| {
            let mut found = None;
            scanner.object(|scanner, name| match name.plain()? {
                b"id" if found.is_none() => {
                    let token = scanner.string()?.plain()?;
                    let behind = scanner.left().checked_add(token.len())?.checked_add(1)?; // and a quotation mark
                    found = Some((token, self.length.checked_sub(behind)?));
                    Some(())
                }
                b"id" => None,
                _ => scanner.skip(),
            })?;
            let (token, start) = found?;
            self.request.entries.push(Entry { uid, token, start, ..*like });
            uid = uid.checked_add(1)?;
            (self.request.entries.len() <= MAX_ENTRIES).then_some(())
        })
    }
}

/// Reads a value; Some(None) if it is not a string.
fn read_if_string<'body>(scanner: &mut Scanner<'body>) -> Option<Option<Text<'body>>> {
    if scanner.peek()? == b'"' { scanner.string().map(Some) } else { scanner.skip().map(|()| None) }
}
