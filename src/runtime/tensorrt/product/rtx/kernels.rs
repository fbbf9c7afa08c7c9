//! The kernels that the library compiled for a GPU, cached for the next process that opens the plan there.
//!
//! They are native code, like plans, and are cached where compiled plans are: in the user's own cache, whose
//! entries are compared with their digests.

use base64ct::{Base64, Encoding};

use crate::cache::{Cache, Fetched, Key};
use crate::digest;
use crate::error::Result;
use crate::runtime::{Gpu, Nvidia};

/// After how many queries they are cached, the last first: the first query compiles those of any shape, more compile
/// those of the shapes that came, which the library compiles while it runs.
const KEPT_AFTER: [u64; 3] = [256, 16, 1];

/// The kernels of a plan on a GPU.
pub(super) struct Kernels {
    cache: Cache,
    plan: String,
    library: String,
    gpu: Gpu,
    driver: Option<String>,
    queries: u64,
}

impl Kernels {
    /// Those of a plan. `library` is the version of the compiling library.
    pub fn new(cache: Cache, plan: &[u8], library: &str, gpu: &Gpu) -> Kernels {
        let (plan, library, driver) = (digest::of(plan), library.to_owned(), Nvidia::here().driver);
        Kernels { cache, plan, library, gpu: gpu.clone(), driver, queries: 0 }
    }

    /// The entry of the most queries. A damaged one is made again.
    pub fn recall(&self) -> Option<Vec<u8>> {
        KEPT_AFTER.into_iter().find_map(|queries| {
            let found = self.cache.fetch::<String>(&self.key(queries).ok()?, self.cache.dir());
            let Ok(Fetched::Hit(kept)) = found else { return None };
            Base64::decode_vec(&kept).ok()
        })
    }

    /// Counts a query, and keeps the kernels where it is time to. A cache that cannot be written costs the next process
    /// their time, and this one nothing.
    pub fn count(&mut self, kernels: impl FnOnce() -> Option<Vec<u8>>) {
        self.queries += 1;
        if KEPT_AFTER.contains(&self.queries)
            && let (Ok(key), Some(bytes)) = (self.key(self.queries), kernels())
        {
            let _ = self.cache.store(&key, &Base64::encode_string(&bytes), &[]);
        }
    }

    fn key(&self, queries: u64) -> Result<Key> {
        let on = format!("{} on {}", self.library, self.gpu);
        Key::new("kernels", &on, &(&self.plan, &self.library, &self.gpu, &self.driver, queries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernels(dir: &std::path::Path, plan: &[u8], gpu: &str) -> Kernels {
        let gpu = Gpu { name: gpu.to_owned(), capability: 89 };
        Kernels::new(Cache::open(dir).unwrap(), plan, "1.7.1.116", &gpu)
    }

    #[test]
    fn kernels_are_cached_after_some_queries_and_found_again_on_the_same_gpu() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = kernels(dir.path(), b"a plan", "NVIDIA L4");
        assert_eq!(first.recall(), None);
        let mut asked = Vec::new();
        for query in 1..=300_u16 {
            first.count(|| {
                asked.push(query);
                Some(query.to_le_bytes().to_vec())
            });
            let latest = asked.last().map(|query| query.to_le_bytes().to_vec());
            assert_eq!(kernels(dir.path(), b"a plan", "NVIDIA L4").recall(), latest);
        }
        assert_eq!(asked, [1, 16, 256]);
        assert_eq!(kernels(dir.path(), b"another", "NVIDIA L4").recall(), None);
        assert_eq!(kernels(dir.path(), b"a plan", "NVIDIA L40S").recall(), None);
    }

    #[test]
    fn kernels_that_were_changed_are_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = kernels(dir.path(), b"a plan", "NVIDIA L4");
        first.count(|| Some(b"native code".to_vec()));
        let kept = std::fs::read_dir(dir.path().join("entries")).unwrap().next().unwrap().unwrap().path();
        let value = std::fs::read_dir(&kept).unwrap().map(|file| file.unwrap().path());
        let value = value.into_iter().find(|path| !path.ends_with("entry.json")).unwrap();
        std::fs::write(value, "\"AAAA\"").unwrap();
        assert_eq!(kernels(dir.path(), b"a plan", "NVIDIA L4").recall(), None);
    }

    #[test]
    fn a_missing_cache_costs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = kernels(&dir.path().join("cache"), b"a plan", "NVIDIA L4");
        std::fs::remove_dir_all(dir.path()).unwrap();
        std::fs::write(dir.path(), "a file").unwrap();
        first.count(|| Some(vec![1]));
        assert_eq!(first.recall(), None);
        std::fs::remove_file(dir.path()).unwrap();
        std::fs::create_dir(dir.path()).unwrap();
    }
}
