//! Types and values at random, for property tests.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::types::{ObjectType, Type};
use crate::value::{Bound, Number, Refinements, Value};

/// Any type, some levels deep, dynamic parts included.
pub(crate) fn any_type() -> BoxedStrategy<Type> {
    let leaf = prop_oneof![
        3 => Just(Type::String),
        2 => Just(Type::Number),
        2 => Just(Type::Bool),
        1 => Just(Type::Dynamic),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(Type::list),
            inner.clone().prop_map(Type::set),
            inner.clone().prop_map(Type::map),
            vec(inner.clone(), 0..4).prop_map(Type::tuple),
            (btree_map("[a-c]{1,3}", inner, 0..5), vec("[a-c]", 0..2)).prop_map(
                |(attributes, optional)| {
                    Type::Object(ObjectType::new(attributes).with_optional(optional).into())
                }
            ),
        ]
    })
    .boxed()
}

/// What a value may hold besides what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknowns {
    Allowed,
    None,
}

/// Any value of the type.
pub(crate) fn any_value(ty: &Type, unknowns: Unknowns) -> BoxedStrategy<Value> {
    let value = any_known(ty, unknowns);
    match unknowns {
        Unknowns::None => prop_oneof![1 => Just(Value::Null), 6 => value].boxed(),
        Unknowns::Allowed => {
            let unknown = if *ty == Type::Dynamic {
                Just(Value::UNKNOWN).boxed()
            } else {
                any_refinements().prop_map(Value::unknown).boxed()
            };
            prop_oneof![1 => Just(Value::Null), 1 => unknown, 6 => value].boxed()
        }
    }
}

fn any_known(ty: &Type, unknowns: Unknowns) -> BoxedStrategy<Value> {
    match ty {
        Type::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Type::String => any_text().prop_map(Value::String).boxed(),
        Type::Number => any_number().prop_map(Value::Number).boxed(),
        Type::Dynamic => any_type()
            .prop_filter("a dynamic value has a type", |ty| *ty != Type::Dynamic)
            .prop_flat_map(move |ty| {
                any_value(&ty, unknowns).prop_map(move |value| Value::dynamic(ty.clone(), value))
            })
            .boxed(),
        Type::List(element) => {
            vec(any_value(element, unknowns), 0..4).prop_map(Value::List).boxed()
        }
        Type::Set(element) => vec(any_value(element, unknowns), 0..4).prop_map(Value::set).boxed(),
        Type::Map(element) => {
            btree_map(any_text(), any_value(element, unknowns), 0..4).prop_map(Value::map).boxed()
        }
        Type::Tuple(types) => {
            let values: Vec<_> = types.iter().map(|ty| any_value(ty, unknowns)).collect();
            values.prop_map(Value::Tuple).boxed()
        }
        Type::Object(object) => {
            let values: Vec<_> = object
                .iter()
                .map(|(name, ty)| (Just(name.clone()), any_value(ty, unknowns)))
                .collect();
            values.prop_map(Value::object).boxed()
        }
    }
}

/// A type with a value of it.
pub(crate) fn any_typed(unknowns: Unknowns) -> impl Strategy<Value = (Type, Value)> {
    any_type().prop_flat_map(move |ty| (Just(ty.clone()), any_value(&ty, unknowns)))
}

fn any_text() -> BoxedStrategy<String> {
    prop_oneof![4 => ".{0,12}", 1 => "[\\x00-\\x7f\"\\\\]{0,40}", 1 => "é{100,300}"].boxed()
}

fn any_number() -> BoxedStrategy<Number> {
    prop_oneof![
        (-300_i64..300).prop_map(Number::from),
        any::<i64>().prop_map(Number::from),
        any::<u64>().prop_map(Number::from),
        any::<i128>().prop_map(Number::from),
        any::<f64>().prop_filter_map("finite", |float| Number::from_f64_exact(float).ok()),
        any::<f64>().prop_filter_map("finite", |float| Number::from_f64(float).ok()),
    ]
    .boxed()
}

fn any_refinements() -> impl Strategy<Value = Refinements> {
    let bound = || {
        option::of((any_number(), any::<bool>()))
            .prop_map(|bound| bound.map(|(number, inclusive)| Bound { number, inclusive }))
    };
    // Bounds of hundreds of digits are cut off on the wire; a test of its own sees to that.
    let short = bound().prop_map(|bound| bound.filter(|it| it.number.to_string().len() < 300));
    (
        any::<bool>(),
        option::of(".{0,20}"),
        short.clone(),
        short,
        option::of(any::<u64>()),
        option::of(0_u64..9),
    )
        .prop_map(
            |(not_null, string_prefix, number_min, number_max, length_min, length_max)| {
                Refinements {
                    not_null,
                    string_prefix,
                    number_min,
                    number_max,
                    length_min,
                    length_max,
                }
            },
        )
}
