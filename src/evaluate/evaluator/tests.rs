use super::*;
use crate::evaluate::ranges;
use crate::ir::text::parse;
use crate::verify::verify;

fn evaluator(text: &str, arithmetic: Arithmetic) -> Result<Evaluator> {
    Evaluator::new(&verify(parse(text).unwrap()).unwrap(), arithmetic)
}

fn exactly(text: &str) -> Evaluator {
    evaluator(text, Arithmetic::default()).unwrap()
}

fn rounding(text: &str) -> Evaluator {
    evaluator(text, Arithmetic { float: Floats::RoundEachNode, ..Arithmetic::default() }).unwrap()
}

fn floats(shape: &[usize], values: &[f32]) -> Array {
    Array::f32s(shape, values.to_vec()).unwrap()
}

/// `f32 [n]` as a literal of the text form.
fn literal(values: &[f32]) -> String {
    let bytes: String = values.iter().flat_map(|x| x.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect();
    format!("literal x\"{bytes}\"")
}

#[test]
fn nodes_run_in_order_and_sizes_are_those_of_the_inputs() {
    let text = format!(
        r#"graph "g" {{
  input %x: f32[b, s, 2]
  weight %w: f32[2] = {}
  %scaled: f32[b, s, 2] = Mul(%x, %w)
  %twice: f32[b, s, 2] = Add(%scaled, %scaled)
  %sizes: i64[2] = Shape {{start=0, end=2}} (%x)
  output %twice
  output %sizes
}}
"#,
        literal(&[1.0, -1.0])
    );
    let mut evaluator = exactly(&text);
    for (shape, x) in [([1, 1, 2], vec![1.0, 2.0]), ([2, 1, 2], vec![1.0, 2.0, 3.0, 4.0])] {
        let outputs = evaluator.run(&[("x", floats(&shape, &x))]).unwrap();
        let expected: Vec<f32> = x.chunks(2).flat_map(|x| [2.0 * x[0], -2.0 * x[1]]).collect();
        assert_eq!(outputs[0], ("twice".to_owned(), floats(&shape, &expected)));
        assert_eq!(outputs[1].1, Array::i64s(&[2], vec![shape[0] as i64, shape[1] as i64]).unwrap());
    }
}

#[test]
fn sizes_may_follow_from_inputs_that_come_later_and_be_made_by_nodes() {
    let text = r#"graph "g" {
  input %mask: f32[p + s]
  input %new: f32[s]
  input %past: f32[p]
  input %start: i64[1]
  input %end: i64[1]
  %all: f32[p + s] = Concat {axis=0} (%past, %new)
  %kept: f32[p + s] = Mul(%all, %mask)
  %some: f32[?n] = Slice {axis=0, length=dim ?n} (%kept, %start, %end)
  %more: f32[p + s + ?n] = Concat {axis=0} (%some, %kept)
  output %more
}
"#;
    let numbers = |values: &[f32]| floats(&[values.len()], values);
    let bound = |n| Array::i64s(&[1], vec![n]).unwrap();
    let run = |mask: &[f32], end| {
        let inputs = [
            ("mask", numbers(mask)),
            ("new", numbers(&[3.0])),
            ("past", numbers(&[1.0, 2.0])),
            ("start", bound(0)),
            ("end", bound(end)),
        ];
        exactly(text).run(&inputs)
    };
    for (end, first) in [(0, &[] as &[f32]), (2, &[0.0, 2.0])] {
        let expected = [first, &[0.0, 2.0, 3.0]].concat();
        assert_eq!(run(&[0.0, 1.0, 1.0], end).unwrap()[0].1, numbers(&expected));
    }
    let said = run(&[1.0; 2], 0).unwrap_err().to_string();
    assert!(said.contains("has the shape [2], not that of f32[p + s] [3]"), "{said}");
}

#[test]
fn missing_and_unfit_inputs_are_named() {
    let text = r#"graph "g" {
  input %x: f32[b, 2]
  input %y: f32[b, 2]
  %z: f32[b, 2] = Add(%x, %y)
  output %z
}
"#;
    let said = |inputs: &[(&str, Array)]| exactly(text).run(inputs).unwrap_err().to_string();
    let x = || ("x", floats(&[1, 2], &[1.0, 2.0]));
    assert_eq!(said(&[x()]), "the input `y` is missing");
    assert_eq!(
        said(&[x(), ("y", floats(&[2, 2], &[0.0; 4]))]),
        "has the shape [2, 2], not that of f32[b, 2] [1, 2]\n  in input y"
    );
    let wrong = ("y", Array::i64s(&[1, 2], vec![1, 2]).unwrap());
    assert!(said(&[x(), wrong]).starts_with("has the shape [1, 2], not that of f32[b, 2]"));
}

#[test]
fn composite_operations_and_foreign_types_are_refused_by_name() {
    let linear = "graph \"g\" { input %x: f32[b, 2] input %w: f32[2, 2] %y: f32[b, 2] = Linear(%x, %w) output %y }";
    let said = evaluator(linear, Arithmetic::default()).err().unwrap();
    assert_eq!(said.message(), "`y` is a Linear, which the evaluator computes only once it is lowered");
    let wide = "graph \"g\" { input %x: f64[b] %y: f64[b] = Tanh(%x) output %y }";
    let said = evaluator(wide, Arithmetic::default()).err().unwrap();
    assert_eq!(said.message(), "`x` is f64, with which the evaluator does not compute");
}

/// `x · w` in half precision, and a norm-like division that brings it back.
const HALF: &str = r#"graph "g" {
  input %x: f32[b, 2]
  %narrow: f16[b, 2] = Cast {to=f16} (%x)
  %large: f16[b, 2] = Mul(%narrow, %narrow) @ffn-out/3
  %back: f16[b, 2] = Sqrt(%large) @ffn-norm/3
  %y: f32[b, 2] = Cast {to=f32} (%back)
  output %y
}
"#;

#[test]
fn half_precision_is_rounded_at_every_node_on_request() {
    let x = || floats(&[1, 2], &[300.0, 3.000_1]);
    let y = |mut evaluator: Evaluator| evaluator.run(&[("x", x())]).unwrap()[0].1.to_f32s().unwrap();
    let wide = y(exactly(HALF));
    assert!((wide[0] - 300.0).abs() < 1e-4 && (wide[1] - 3.000_1).abs() < 1e-5, "{wide:?}");
    assert_eq!(y(rounding(HALF)), [f32::INFINITY, 3.0]);
}

#[test]
fn values_out_of_range_are_named_with_their_size() {
    let texts = || [[300.0, 3.0], [-400.0, 0.0]].map(|x| vec![("x", floats(&[1, 2], &x))]);
    let seen = ranges(&mut exactly(HALF), texts()).unwrap();
    let beyond: Vec<_> = seen.iter().filter(|range| range.magnitude() > 65_504.0).collect();
    assert_eq!(beyond.len(), 1);
    assert_eq!((beyond[0].name.as_str(), beyond[0].magnitude(), beyond[0].elements), ("large", 160_000.0, 4));
    assert_eq!(beyond[0].role.map(Role::name).as_deref(), Some("ffn-out/3"));
    let seen = ranges(&mut rounding(HALF), texts()).unwrap();
    let lost: Vec<_> = seen.iter().map(|range| (range.name.as_str(), range.non_finite)).collect();
    assert_eq!(lost, [("narrow", 0), ("large", 2), ("back", 2), ("y", 2)]);
}

#[test]
fn masked_values_do_not_count() {
    let text = format!(
        r#"graph "g" {{
  input %x: f32[b, 3]
  input %mask: i64[b, 3]
  weight %lowest: f32[] = {}
  %kept: bool[b, 3] = Cast {{to=bool}} (%mask)
  %masked: f32[b, 3] = Where(%kept, %x, %lowest)
  %biased: f32[b, 3] = Add(%masked, %x)
  %weights: f32[b, 3] = Softmax {{axis=-1}} (%biased)
  output %weights
}}
"#,
        literal(&[f32::MIN])
    );
    let mask = Array::i64s(&[1, 3], vec![1, 1, 0]).unwrap();
    let inputs = vec![("x", floats(&[1, 3], &[7.0, -9.0, 1.0])), ("mask", mask)];
    let seen = ranges(&mut exactly(&text), [inputs]).unwrap();
    let found: Vec<_> = seen.iter().map(|range| (range.name.as_str(), range.magnitude(), range.elements)).collect();
    assert_eq!(found[0], ("masked", 9.0, 2));
    assert_eq!(found[1], ("biased", 18.0, 2));
    assert_eq!((found[2].0, found[2].2), ("weights", 3));
}

#[test]
fn rows_of_a_stored_table_are_those_of_the_whole() {
    let text = format!(
        r#"graph "g" {{
  input %ids: i64[b, s]
  weight %table: f32[3, 2] = {}
  %rows: f32[b, s, 2] = Gather {{axis=0}} (%table, %ids)
  output %rows
}}
"#,
        literal(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    );
    let mut evaluator = exactly(&text);
    let ids = |ids: [i64; 2]| [("ids", Array::i64s(&[1, 2], ids.to_vec()).unwrap())];
    assert_eq!(evaluator.run(&ids([2, -3])).unwrap()[0].1, floats(&[1, 2, 2], &[5.0, 6.0, 1.0, 2.0]));
    let said = evaluator.run(&ids([0, 3])).unwrap_err();
    assert_eq!(said.to_string(), "index 3 is outside the 3 rows of a table\n  in node rows");
    assert_eq!(evaluator.weights.bytes(), 0);
}
