//! Names that Python has found registered, although not as they are given: a subdomain, upper case, an IDNA form.
//!
//! Whether a name passes depends on the site and the key response only, and a kernel is that of one key response. Most
//! requests come from few names, so these are worth remembering.

use std::collections::{HashMap, HashSet};
use std::sync::RwLock;

/// Together at most about 5 MB. When there are more, all are forgotten.
const MAX_NAMES: usize = 16_384;
const MAX_NAME_LENGTH: usize = 255;

#[derive(Default)]
struct Sites {
    names: HashMap<u32, HashSet<Box<[u8]>>>,
    count: usize,
}

/// Names that pass the check, by site.
#[derive(Default)]
pub struct Passed(RwLock<Sites>);

impl Passed {
    pub fn contain(&self, site_id: u32, name: &[u8]) -> bool {
        self.0.read().is_ok_and(|sites| sites.names.get(&site_id).is_some_and(|names| names.contains(name)))
    }

    pub fn add(&self, site_id: u32, name: &[u8]) {
        if name.len() > MAX_NAME_LENGTH || self.contain(site_id, name) {
            return;
        }
        let Ok(mut sites) = self.0.write() else { return };
        if sites.count >= MAX_NAMES {
            *sites = Sites::default();
        }
        sites.count = sites.count.saturating_add(1);
        sites.names.entry(site_id).or_default().insert(name.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let passed = Passed::default();
        passed.add(1, b"a");
        passed.add(1, &[b'x'; MAX_NAME_LENGTH + 1]);
        assert!(passed.contain(1, b"a"));
        assert!(
            !passed.contain(2, b"a") && !passed.contain(1, b"b") && !passed.contain(1, &[b'x'; MAX_NAME_LENGTH + 1])
        );
        for number in 1..MAX_NAMES {
            passed.add(2, number.to_string().as_bytes());
            passed.add(2, number.to_string().as_bytes());
        }
        assert!(passed.contain(1, b"a"));
        passed.add(3, b"a");
        assert!(passed.contain(3, b"a") && !passed.contain(1, b"a"));
    }
}
