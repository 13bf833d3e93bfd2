//! Rows that are made from something else under the same name, and those that only look so.

use super::*;

#[test]
fn another_tokenizer_of_the_same_name_is_named() {
    let run = |kind: &str, groups: &str, fields: &str, digests: [&str; 2]| {
        let record = Record {
            kind: kind.into(),
            code_groups: groups.into(),
            fields: fields.into(),
            tokenizer_digest: digests[0].into(),
            encoder_digest: digests[1].into(),
            ..record("K", 0, 60.0)
        };
        side(vec![record], None)
    };
    let pixels = r#"{"features":{"kind":"pixels"},"k":16,"model":"/a/x.onnx"}"#;
    let hog = r#"{"algorithm":"lloyd","features":{"kind":"hog"},"k":16,"model":"b/x.onnx"}"#;
    let old = run("kmeans", "", pixels, ["aa", "cc"]);
    let compared = |new: &Side| regression(&old, new, &Gate::default());
    let found = compared(&run("product-kmeans", "4 4", hog, ["bb", "cc"]));
    assert_eq!(found.differing, ["K: kind was kmeans, is product-kmeans"]);
    let expected = [
        "K: with.algorithm was absent, is lloyd",
        "K: with.features.kind was pixels, is hog",
    ];
    assert_eq!(found.otherwise, expected);
    // Other files under the same names.
    let found = compared(&run("kmeans", "", pixels, ["bb", "dd"]));
    let expected = [
        "K: tokenizer_digest was aa, is bb",
        "K: encoder_digest was cc, is dd",
    ];
    assert_eq!(found.otherwise, expected);
    assert!(found.differing.is_empty());
    // A field that has its default value.
    let found = compared(&run("kmeans", "", hog, ["aa", "cc"]));
    assert!(found.otherwise.is_empty());
    // An older file says nothing of fields and files.
    let found = compared(&run("kmeans", "", "", ["", ""]));
    assert!(found.differing.is_empty() && found.otherwise.is_empty());
    let groups = ["4 4", "4 8"].map(|groups| run("product-kmeans", groups, "", ["", ""]));
    let found = regression(&groups[0], &groups[1], &Gate::default());
    assert_eq!(found.differing, ["K: code_groups was 4 4, is 4 8"]);
}

/// Nothing was trained: an older file states a precision all the same.
#[test]
fn the_precision_of_rows_without_a_model_is_not_compared() {
    let run = |dtype: &str| {
        let record = Record {
            dtype: dtype.into(),
            lp_top1: None,
            ..record("K", 0, 60.0)
        };
        side(vec![record], None)
    };
    let found = regression(&run("f32"), &run("bf16"), &Gate::default());
    assert!(found.otherwise.is_empty(), "{:?}", found.otherwise);
}

#[test]
fn fit_seeds_as_pandas_writes_them_are_the_same() {
    let found = regression(
        &fitted("0.0", 0.7, 60.0),
        &fitted("0", 0.7, 60.0),
        &Gate::default(),
    );
    assert!(found.differing.is_empty() && !found.regressed());
    assert_eq!(found.verdict(), "no regression");
}
