//! The accepted content of a pickle.

use super::build::*;
use super::*;

/// The message for an archive whose dict has the entry `w` and the storage `0` of two floats.
fn entry(value: Vec<u8>) -> String {
    whole(dict(&[("w", value)]))
}

/// The message for an archive of that pickle, which has the storage `0` of two floats.
fn whole(body: Vec<u8>) -> String {
    refusal(saved(&body, &[("0", &[0; 8])]))
}

fn values(body: Vec<u8>, storage: &[f32]) -> Vec<(String, String, Vec<f32>)> {
    let tensors = parse(Arc::new(saved(&body, &[("0", &floats(storage))]))).unwrap();
    let values = |w: &Weight| w.to_f32s().unwrap().into_owned();
    tensors.iter().map(|(name, w)| (name.clone(), w.ty().to_string(), values(w))).collect()
}

#[test]
fn views_are_read_by_their_strides() {
    let six = || storage("FloatStorage", "0", 6);
    let view = |offset, shape: &[i64], strides: &[i64]| {
        let read = values(dict(&[("w", tensor(six(), offset, shape, strides))]), &[0., 1., 2., 3., 4., 5.]);
        read.into_iter().map(|(_, ty, values)| (ty, values)).next().unwrap()
    };
    assert_eq!(view(0, &[2, 3], &[3, 1]), ("f32[2, 3]".to_owned(), vec![0., 1., 2., 3., 4., 5.]));
    assert_eq!(view(0, &[3, 2], &[1, 3]), ("f32[3, 2]".to_owned(), vec![0., 3., 1., 4., 2., 5.]));
    assert_eq!(view(4, &[2], &[1]), ("f32[2]".to_owned(), vec![4., 5.]));
    assert_eq!(view(1, &[2, 3], &[0, 2]), ("f32[2, 3]".to_owned(), vec![1., 3., 5., 1., 3., 5.]));
    assert_eq!(view(5, &[], &[]), ("f32[]".to_owned(), vec![5.]));
    assert_eq!(view(2, &[1, 2, 1], &[77, 1, 99]), ("f32[1, 2, 1]".to_owned(), vec![2., 3.]));
    assert_eq!(view(9, &[0, 2], &[2, 1]), ("f32[0, 2]".to_owned(), vec![]));
}

#[test]
fn only_views_that_are_not_contiguous_are_copied() {
    let file = Arc::new(saved(
        &dict(&[
            ("in place", tensor(storage("FloatStorage", "0", 4), 0, &[2, 2], &[2, 1])),
            ("gathered", tensor(storage("FloatStorage", "0", 4), 0, &[2, 2], &[1, 2])),
        ]),
        &[("0", &[0; 16])],
    ));
    for (name, weight) in parse(file.clone()).unwrap() {
        let Expr::Source { data: Some(blob), .. } = weight.expr() else { panic!("{name} has no data") };
        assert_eq!(file.as_ptr_range().contains(&blob.bytes().as_ptr()), name == "in place", "{name}");
    }
}

#[test]
fn parameters_and_training_states_are_read() {
    let hooks = ordered();
    let parameter = call(global("torch._utils", "_rebuild_parameter"), &[pair(), b"\x88".to_vec(), hooks]);
    let body =
        dict(&[("epoch", int(3)), ("lr", b"G\0\0\0\0\0\0\0\0".to_vec()), ("state_dict", dict(&[("w", parameter)]))]);
    assert_eq!(values(body, &[1., 2.]), [("w".to_owned(), "f32[2]".to_owned(), vec![1., 2.])]);
}

#[test]
fn the_third_way_to_make_a_tensor_names_its_element_type() {
    let id = tuple(&[text("storage"), global("torch.storage", "UntypedStorage"), text("0"), text("cpu"), int(8)]);
    let untyped = [id, b"Q".to_vec()].concat();
    let mut given = arguments(untyped, 1, &[1], &[1]);
    given.push(global("torch", "float32"));
    let v3 = global("torch._utils", "_rebuild_tensor_v3");
    let body = dict(&[("w", call(v3.clone(), &given))]);
    assert_eq!(values(body, &[1., 2.]), [("w".to_owned(), "f32[1]".to_owned(), vec![2.])]);
    given.pop();
    assert_eq!(entry(call(v3, &given)), "a tensor is made without an element type");
}

#[test]
fn every_element_type_has_its_storage() {
    let types = ["Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"];
    let names = ["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool"];
    for (class, name) in types.iter().zip(names) {
        let numel = 8 / DType::from_name(name).unwrap().size() as i64;
        let body = dict(&[("w", tensor(storage(&format!("{class}Storage"), "0", numel), 0, &[numel], &[1]))]);
        let tensors = parse(Arc::new(saved(&body, &[("0", &[7; 8])]))).unwrap();
        assert_eq!(tensors[0].1.ty().to_string(), format!("{name}[{numel}]"));
        assert_eq!(tensors[0].1.evaluate().unwrap().as_bytes(), [7; 8]);
    }
}

/// The error for an archive of that pickle, or that it is read.
fn said(body: Vec<u8>) -> String {
    let read = parse(Arc::new(saved(&body, &[("0", &[0; 8])])));
    read.map_or_else(|e| e.message().to_owned(), |_| "read".to_owned())
}

#[test]
fn these_opcodes_are_admitted_and_no_others() {
    // PROTO STOP MARK GLOBAL REDUCE BUILD, EMPTY_ DICT LIST TUPLE, TUPLE TUPLE1-3, APPEND APPENDS SETITEM SETITEMS,
    // NONE NEWTRUE NEWFALSE, BININT BININT1 BININT2 LONG1 BINFLOAT, BINUNICODE SHORT_BINSTRING,
    // BINGET LONG_BINGET BINPUT LONG_BINPUT, BINPERSID
    let admitted = b"\x80.(cRb}])t\x85\x86\x87aesuN\x88\x89JKM\x8aGXUhjqrQ";
    for opcode in 0..=u8::MAX {
        let said = said(vec![opcode]);
        let refused = said.starts_with("opcode ") && said.ends_with(" is not one that kilnc reads")
            || said == format!("0x{opcode:02x} is no opcode of a pickle");
        assert_eq!(refused, !admitted.contains(&opcode), "{opcode:#x}: {said}");
    }
}

#[test]
fn these_names_are_admitted_and_no_others() {
    let storages = ["Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"];
    let types = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"];
    let functions = ["_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"];
    let admitted = (functions.map(|name| ("torch._utils", name.to_owned())).into_iter())
        .chain(storages.map(|name| ("torch", format!("{name}Storage"))))
        .chain(types.map(|name| ("torch", name.to_owned())))
        .chain([("torch", "Size".to_owned()), ("torch.storage", "UntypedStorage".to_owned())])
        .chain([("collections", "OrderedDict".to_owned())]);
    for (module, name) in admitted {
        assert_eq!(entry(global(module, &name)), "`w` is a name, expected a tensor", "{module}.{name}");
    }
    let others = [
        "posix.system",
        "builtins.eval",
        "__builtin__.OrderedDict",
        "collections.defaultdict",
        "torch.OrderedDict",
        "torch.Storage",
        "torch.FloatStorage.x",
        "torch.jit.load",
        "torch.complex64",
        "torch.storage._load_from_bytes",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_tensor_v2.__globals__",
        "numpy.core.multiarray._reconstruct",
    ];
    for name in others {
        let (module, last) = name.rsplit_once('.').unwrap();
        let expected = format!("the pickle calls `{name}`, which kilnc does not run");
        assert_eq!(entry(global(module, last)), expected);
    }
}

#[test]
fn the_state_of_an_ordered_dict_is_dropped() {
    let entries = [ordered(), b"(".to_vec(), text("w"), pair(), b"u".to_vec()].concat();
    let body = [entries, dict(&[("_metadata", int(1))]), b"b".to_vec()].concat();
    assert_eq!(values(body, &[1., 2.]), [("w".to_owned(), "f32[2]".to_owned(), vec![1., 2.])]);
}

#[test]
fn code_is_refused_by_name() {
    let asks = |name: &str| format!("the pickle calls `{name}`, which kilnc does not run");
    assert_eq!(whole(call(global("os", "system"), &[text("true")])), asks("os.system"));
    assert_eq!(entry(global("argparse", "Namespace")), asks("argparse.Namespace"));
    assert_eq!(entry(global("torch", "ComplexFloatStorage")), asks("torch.ComplexFloatStorage"));
    assert_eq!(entry(global("torch", "load")), asks("torch.load"));
    assert_eq!(entry(global("a\u{1b}[2J", "b")), asks("a\\u{1b}[2J.b"));
    assert_eq!(
        entry([text("os"), text("system"), b"\x93".to_vec()].concat()),
        "opcode STACK_GLOBAL is not one that kilnc reads"
    );
    assert_eq!(entry(b"(ios\nsystem\n".to_vec()), "opcode INST is not one that kilnc reads");
    assert_eq!(entry(b"\xff".to_vec()), "0xff is no opcode of a pickle");
    assert_eq!(entry(b"\x80\x04".to_vec()), "pickle protocol 4; PyTorch writes protocol 2");
    assert_eq!(entry(b"cos".repeat(200)), "a name does not end within 256 bytes");
}

#[test]
fn calls_are_of_the_known_names_with_the_known_arguments() {
    let reduce = |callable: Vec<u8>, arguments: Vec<u8>| entry([callable, arguments, b"R".to_vec()].concat());
    assert_eq!(reduce(text("os.system"), tuple(&[])), "the pickle calls a string, expected a name");
    assert_eq!(reduce(pair(), tuple(&[])), "the pickle calls a tensor, expected a name");
    let float = || global("torch", "FloatStorage");
    assert_eq!(
        reduce(float(), ints(&[1])),
        "the pickle calls `torch.FloatStorage` with 1 arguments, which kilnc does not do"
    );
    assert_eq!(reduce(float(), int(1)), "the arguments of a call are an integer, expected a tuple");
    assert_eq!(
        entry(call(global("collections", "OrderedDict"), &[list(&[])])),
        "the pickle calls `collections.OrderedDict` with 1 arguments, which kilnc does not do"
    );
    let parameter = [int(1), b"\x88".to_vec(), ordered()];
    assert_eq!(
        entry(call(global("torch._utils", "_rebuild_parameter"), &parameter)),
        "a parameter is made of an integer, expected a tensor"
    );
    let build = |object: Vec<u8>, state: Vec<u8>| entry([object, state, b"b".to_vec()].concat());
    assert_eq!(build(pair(), dict(&[])), "the pickle builds a tensor from a dict, which kilnc does not do");
    assert_eq!(build(dict(&[]), dict(&[])), "the pickle builds a dict from a dict, which kilnc does not do");
    assert_eq!(build(ordered(), int(1)), "the pickle builds a dict from an integer, which kilnc does not do");
}

#[test]
fn the_arguments_of_a_tensor_are_checked() {
    type Change = dyn Fn(&mut Vec<Vec<u8>>);
    let made = |change: &Change| {
        let mut given = arguments(storage("FloatStorage", "0", 2), 0, &[2], &[1]);
        change(&mut given);
        entry(call(global("torch._utils", "_rebuild_tensor_v2"), &given))
    };
    let cases: [(&Change, &str); 12] = [
        (&|a| a.truncate(5), "a tensor is made of 5 arguments of other types"),
        (&|a| a[4] = int(1), "a tensor is made of 6 arguments of other types"),
        (&|a| a[0] = text("0"), "a tensor is made of a string, expected a storage"),
        (&|a| a[1] = int(-1), "the offset of a tensor is -1"),
        (&|a| a[1] = text("1"), "the offset of a tensor is a string"),
        (&|a| a[2] = ints(&[-2]), "the size of a tensor is -2"),
        (&|a| a[2] = ints(&[1; 17]), "a tensor has 17 dimensions, at most 16 are read"),
        (&|a| a[3] = ints(&[-1]), "the stride of a tensor is -1"),
        (&|a| a[3] = ints(&[1, 1]), "a tensor has 1 dimensions and 2 strides"),
        (&|a| a[3] = int(1), "the stride of a tensor is an integer"),
        (&|a| a[5] = dict(&[("0", int(1))]), "a tensor has backward hooks, which kilnc does not support"),
        (&|a| a.push(dict(&[("neg", b"\x88".to_vec())])), "a tensor has metadata, which kilnc does not support"),
    ];
    for (change, expected) in cases {
        assert_eq!(made(change), expected);
    }
}

#[test]
fn a_view_stays_inside_its_storage() {
    let view = |class: &str, numel, offset, shape: &[i64], strides: &[i64]| {
        entry(tensor(storage(class, "0", numel), offset, shape, strides))
    };
    let float = "FloatStorage";
    let outside = |offset: i64, strides: &str, shape: &str| {
        format!("tensor `w`: offset {offset} and strides {strides} over shape {shape} leave its storage of 2 elements")
    };
    assert_eq!(view(float, 2, 0, &[3], &[1]), outside(0, "[1]", "[3]"));
    assert_eq!(view(float, 2, 1, &[2], &[1]), outside(1, "[1]", "[2]"));
    assert_eq!(view(float, 2, 0, &[2, 2], &[1, 1]), outside(0, "[1, 1]", "[2, 2]"));
    let most = i64::MAX;
    assert_eq!(view(float, 2, most, &[2], &[most]), outside(most, &format!("[{most}]"), "[2]"));
    assert_eq!(view(float, 2, 0, &[3], &[most]), outside(0, &format!("[{most}]"), "[3]"));
    assert_eq!(view(float, 2, 0, &[1 << 31, 1 << 31], &[0, 0]), "tensor `w`: its size overflows");
    assert_eq!(
        view(float, 2, 0, &[1 << 40], &[0]),
        "tensor `w` repeats its elements over 4398046511104 bytes, more than the file has"
    );
    assert_eq!(view(float, 1 << 62, 0, &[2], &[1]), "storage `0`: its size overflows");
    assert_eq!(view(float, -1, 0, &[2], &[1]), "the number of elements of a storage is -1");
    let length =
        |numel: i64, bytes: i64| format!("tensor `w`: its storage `0` has 8 bytes, but {numel} elements need {bytes}");
    assert_eq!(view(float, 3, 0, &[2], &[1]), length(3, 12));
    assert_eq!(view("DoubleStorage", 2, 0, &[2], &[1]), length(2, 16));
    assert_eq!(entry(tensor(storage(float, "1", 2), 0, &[2], &[1])), "tensor `w`: its storage `1` is missing");
}

#[test]
fn repeated_elements_of_many_tensors_count_together() {
    let wide = tensor(storage("FloatStorage", "0", 2), 0, &[200_000], &[0]);
    let one = dict(&[("a", wide.clone())]);
    assert_eq!(parse(Arc::new(saved(&one, &[("0", &[0; 8])]))).unwrap().len(), 1);
    assert_eq!(
        whole(dict(&[("a", wide.clone()), ("b", wide)])),
        "tensor `b` repeats its elements over 800000 bytes, more than the file has"
    );
}

#[test]
fn persistent_ids_are_of_storages() {
    let id = |items: &[Vec<u8>]| entry([tuple(items), b"Q".to_vec()].concat());
    let float = || global("torch", "FloatStorage");
    let foreign = "a persistent id is not that of a storage";
    assert_eq!(entry(b"K\x01Q".to_vec()), foreign);
    assert_eq!(id(&[text("module"), float(), text("0"), text("cpu"), int(2)]), foreign);
    assert_eq!(id(&[text("storage"), float(), text("0"), text("cpu")]), foreign);
    let view = tuple(&[text("1"), int(0), int(1)]);
    assert_eq!(id(&[text("storage"), float(), text("0"), text("cpu"), int(2), view]), foreign);
    let size = global("torch", "Size");
    assert_eq!(id(&[text("storage"), size, text("0"), text("cpu"), int(2)]), "storage `0` is of the type `torch.Size`");
    assert_eq!(
        id(&[text("storage"), float(), text(&"0".repeat(300)), text("cpu"), int(2)]),
        "a storage key of 300 bytes, at most 256 are read"
    );
}

#[test]
fn the_stack_and_the_memo_are_not_left() {
    let few = "the stack has too few values";
    for underflow in [&b"0"[..], b"a", b"s", b"R", b"Q", b"b", b"\x85", b"\x87", b"q\0", b"(a", b"}(b", b"(."] {
        let expected = if underflow == b"0" { "opcode POP is not one that kilnc reads" } else { few };
        assert_eq!(whole(underflow.to_vec()), expected, "{underflow:?}");
    }
    assert_eq!(whole(b"t".to_vec()), "no mark is on the stack");
    assert_eq!(whole(b"}u".to_vec()), "no mark is on the stack");
    assert_eq!(whole(b"h\x07".to_vec()), "the memo has no value 7");
    assert_eq!(whole(b"j\x07\0\0\x80".to_vec()), "the memo has no value 2147483655");
    assert_eq!(whole(b"NN".to_vec()), "the pickle ends with more than one value");
    assert_eq!(refusal(archive(&[("m/data.pkl", b"\x80\x02N")])), "1 bytes are announced, 0 are left");
    assert_eq!(whole(b"N.N".to_vec()), "2 bytes follow the pickle");
}

#[test]
fn nesting_and_numbers_are_limited() {
    assert_eq!(whole(b"(".repeat(101)), "marks are nested deeper than 100");
    assert_eq!(whole(b"N".repeat(70_000)), "more than 65536 values are on the stack");
    let long = [&b"]"[..], &b"Na".repeat(1 << 20)].concat();
    assert_eq!(whole(long), "the pickle has more than 2097152 opcodes");
    assert_eq!(whole(b"X\xff\xff\xff\xffab".to_vec()), "4294967295 bytes are announced, 3 are left");
    assert_eq!(whole(b"X\x02\0\0\0\xff\xfe".to_vec()), "a string is not UTF-8");
    assert_eq!(whole([&b"\x8a\x09"[..], &[0; 9]].concat()), "an integer of 9 bytes, at most 8 are read");
}

#[test]
fn values_that_contain_themselves_or_double_cost_nothing() {
    let doubled = [&b")q\0"[..], &b"h\0h\0\x86q\0".repeat(10_000)].concat();
    let nested = [&b"N"[..], &b"\x85".repeat(100_000)].concat();
    for bomb in [doubled.clone(), nested, b"]q\0h\0a".to_vec(), b"](h\0h\0e".to_vec()] {
        assert!(!entry(bomb).is_empty());
    }
    let bytes = pickle(&[&b")q\0"[..], &b"h\0h\0\x86q\0".repeat(200)].concat());
    assert!(pickle::read(&bytes, "").is_err());
    let bytes = pickle(&[&b"]q\0"[..], &b"h\0h\0\x86q\0a".repeat(200)].concat());
    assert_eq!(pickle::read(&bytes, "").unwrap().heap.len(), 201);
}

#[test]
fn the_object_is_a_dict_of_tensors() {
    assert_eq!(whole(pair()), "the file holds a tensor, expected a dict of tensors");
    assert_eq!(whole(list(&[pair()])), "the file holds a list, expected a dict of tensors");
    assert_eq!(entry(int(3)), "`w` is an integer, expected a tensor");
    assert_eq!(entry(dict(&[])), "`w` is a dict, expected a tensor");
    assert_eq!(whole(dict(&[("a", pair()), ("a", pair())])), "duplicate tensor `a`");
    assert_eq!(whole([b"}", &int(1)[..], &pair(), b"s"].concat()), "a key of the dict is an integer, expected a name");
    assert_eq!(whole(dict(&[("state_dict", dict(&[("a", int(1))]))])), "`a` is an integer, expected a tensor");
    let nested = || dict(&[("a", pair())]);
    assert_eq!(whole(dict(&[("state_dict", nested()), ("state_dict", nested())])), "duplicate `state_dict`");
    let set = |target: Vec<u8>| entry([target, text("k"), int(1), b"s".to_vec()].concat());
    assert_eq!(set(pair()), "an entry is set in a tensor, expected a dict");
    assert_eq!(set(list(&[])), "an entry is set in a list, expected a dict");
    assert_eq!(entry([&pair()[..], b"Na"].concat()), "an element is appended to a tensor, expected a list");
    assert_eq!(whole(b"}(Nu".to_vec()), "a key of a dict has no value");
}
