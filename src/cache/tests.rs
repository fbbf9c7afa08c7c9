use std::collections::BTreeMap;

use std::fs::File;

use tempfile::TempDir;

use super::*;

/// A cache with one entry, and the folder that its file came from.
struct Place {
    root: TempDir,
    cache: Cache,
    key: Key,
}

fn place() -> Place {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::open(&root.path().join("cache")).unwrap();
    let key = key("texts");
    let file = root.path().join("model.onnx");
    fs::write(&file, "a model").unwrap();
    cache.store(&key, &7, &[file]).unwrap();
    fs::create_dir(root.path().join("out")).unwrap();
    Place { root, cache, key }
}

fn key(texts: &str) -> Key {
    Key::new("engine", "ort-cpu-int8", &BTreeMap::from([("texts", texts)])).unwrap()
}

impl Place {
    fn out(&self) -> PathBuf {
        self.root.path().join("out")
    }

    fn fetch(&self) -> Fetched<u32> {
        self.cache.fetch(&self.key, &self.out()).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root.path().join("cache/entries").join(&self.key.digest).join(name)
    }

    /// The report on an entry after one of its files was changed; none of its files is left behind.
    fn damaged(name: &str, change: impl Fn(&Path)) -> String {
        let place = place();
        change(&place.file(name));
        let Fetched::Damaged(why) = place.fetch() else { panic!("the entry was taken") };
        assert_eq!(fs::read_dir(place.out()).unwrap().count(), 0);
        assert_eq!(place.fetch(), Fetched::Miss);
        assert!(place.cache.dir().join("damaged").join(&place.key.digest).is_dir());
        place.cache.store(&place.key, &8, &[]).unwrap();
        assert_eq!(place.fetch(), Fetched::Hit(8));
        why
    }
}

#[test]
fn outputs_are_found_by_their_inputs() {
    let place = place();
    assert_eq!(place.fetch(), Fetched::Hit(7));
    assert_eq!(fs::read_to_string(place.out().join("model.onnx")).unwrap(), "a model");
    assert_eq!(place.cache.fetch::<u32>(&key("other texts"), &place.out()).unwrap(), Fetched::Miss);
    let cached = place.cache.list().unwrap();
    assert_eq!(
        (cached.len(), cached[0].kind.as_str(), cached[0].name.as_str(), cached[0].bytes),
        (1, "engine", "ort-cpu-int8", 8)
    );
    // The same once more changes nothing.
    place.cache.store(&place.key, &9, &[]).unwrap();
    assert_eq!(place.fetch(), Fetched::Hit(7));
}

#[test]
fn an_entry_that_is_not_as_it_was_written_is_set_aside() {
    let write = |text: &'static str| move |path: &Path| fs::write(path, text).unwrap();
    assert_eq!(Place::damaged("model.onnx", write("a modem")), "model.onnx was changed after it was written");
    assert_eq!(Place::damaged("model.onnx", write("a model and more")), "model.onnx was changed after it was written");
    assert!(Place::damaged("model.onnx", |path| fs::remove_file(path).unwrap()).starts_with("model.onnx: "));
    assert_eq!(Place::damaged(VALUE, write("8")), "value.json was changed after it was written");
    assert!(Place::damaged(ENTRY, write("{")).starts_with("entry.json: "));
    let other = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replace("kilnc.cache/1", "kilnc.cache/2")).unwrap();
    };
    assert_eq!(Place::damaged(ENTRY, other), "entry.json is of another entry");
    let outside = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replace("model.onnx", "../../x")).unwrap();
    };
    assert_eq!(Place::damaged(ENTRY, outside), "`../../x` is no name of a file");
}

#[test]
fn an_unwritable_output_is_no_fault_of_the_cache() {
    let place = place();
    let error = place.cache.fetch::<u32>(&place.key, &place.root.path().join("nowhere")).unwrap_err();
    assert!(error.message().contains("nowhere"), "{error}");
    assert_eq!(place.fetch(), Fetched::Hit(7));
}

#[test]
fn entries_that_were_used_last_stay() {
    let place = place();
    let other = key("other texts");
    let file = place.root.path().join("model.onnx");
    place.cache.store(&other, &8, &[file]).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    for name in [&place.key, &other].map(|key| place.root.path().join("cache/entries").join(&key.digest).join(ENTRY)) {
        File::options().append(true).open(name).unwrap().set_modified(long_ago).unwrap();
    }
    assert_eq!(place.fetch(), Fetched::Hit(7));
    let pruned = place.cache.prune(Limits { bytes: Some(10), age: None }).unwrap();
    assert_eq!(pruned, Pruned { entries: 1, bytes: 8, left: 1, bytes_left: 8 });
    assert_eq!(place.fetch(), Fetched::Hit(7));
    assert_eq!(place.cache.fetch::<u32>(&other, &place.out()).unwrap(), Fetched::Miss);
    let hour = Duration::from_secs(3600);
    assert_eq!(place.cache.prune(Limits { bytes: None, age: Some(hour) }).unwrap().left, 1);
    assert_eq!(place.cache.prune(Limits { bytes: Some(0), age: None }).unwrap().entries, 1);
    assert_eq!(fs::read_dir(place.root.path().join("cache/work")).unwrap().count(), 0);
}

#[test]
fn files_of_a_dead_build_are_swept_and_those_of_a_live_one_stay() {
    let place = place();
    let work = place.root.path().join("cache/work");
    let live = Work::claim(&work).unwrap();
    fs::write(live.path("half"), "half").unwrap();
    fs::create_dir(work.join("dead")).unwrap();
    fs::write(work.join("dead/half"), "half").unwrap();
    fs::write(work.join("dead.lock"), "").unwrap();
    Cache::open(&place.root.path().join("cache")).unwrap();
    assert!(live.path("half").exists());
    assert!(!work.join("dead").exists() && !work.join("dead.lock").exists());
    drop(live);
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0);
}

#[test]
fn of_two_builds_that_make_the_same_at_once_one_wins() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("model.onnx");
    fs::write(&file, vec![1; 1 << 20]).unwrap();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let (root, file) = (root.path(), &file);
            scope.spawn(move || {
                let cache = Cache::open(&root.join("cache")).unwrap();
                let out = root.join(format!("out{i}"));
                fs::create_dir(&out).unwrap();
                for texts in ["one", "two", "three"] {
                    let key = key(texts);
                    cache.store(&key, &texts, std::slice::from_ref(file)).unwrap();
                    // Another thread may be pruning.
                    match cache.fetch::<String>(&key, &out).unwrap() {
                        Fetched::Hit(value) => assert_eq!(value, texts),
                        Fetched::Miss => {}
                        Fetched::Damaged(why) | Fetched::Unread(why) => panic!("{why}"),
                    }
                    if i == 0 {
                        cache.prune(Limits { bytes: Some(0), age: None }).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(fs::read_dir(root.path().join("cache/work")).unwrap().count(), 0);
    assert!(!root.path().join("cache/damaged").exists());
}
