//! The JSON Schema of a layer of an encoder.

use schemars::SchemaGenerator;

/// More than any model has blocks.
const MOST_BLOCKS: usize = 1000;

/// Returns the schema of [`tessera_models::vit::Layer`].
pub fn layer_schema(_: &mut SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"anyOf": [
        {"type": "integer", "minimum": 1, "maximum": MOST_BLOCKS},
        {"type": "string", "pattern": "^last-[1-9][0-9]*$"},
    ]})
}
