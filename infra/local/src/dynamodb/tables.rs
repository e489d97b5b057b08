//! Tables, from their definitions.

use dynoxide::{
    Database, DynoxideError,
    actions::{create_table::CreateTableRequest, describe_table::DescribeTableRequest},
};
use serde_json::{Value, json};

use super::{Error, failed};

/// Creates a table, or checks that the one of that name has the same keys, indexes and stream.
pub(super) fn create(database: &Database, mut definition: Value) -> Result<(), Error> {
    let expiry = definition
        .as_object_mut()
        .and_then(|fields| fields.remove("TimeToLiveSpecification"));
    enable_stream(&mut definition);
    let request: CreateTableRequest =
        serde_json::from_value(definition.clone()).map_err(|error| Error::Definition {
            reason: error.to_string(),
        })?;
    let table = request.table_name.clone();

    match database.create_table(request) {
        Ok(_) => {}
        Err(DynoxideError::ResourceInUseException(_)) => check(database, &table, &definition)?,
        Err(error) => return Err(failed(format!("creating the table `{table}`"))(error)),
    }
    match expiry {
        Some(expiry) => set_expiry(database, &table, &expiry),
        None => Ok(()),
    }
}

/// A view type without `StreamEnabled` is how a SAM template asks for a stream.
fn enable_stream(definition: &mut Value) {
    if let Some(stream) = definition
        .get_mut("StreamSpecification")
        .and_then(Value::as_object_mut)
        && stream.contains_key("StreamViewType")
    {
        stream.entry("StreamEnabled").or_insert(Value::Bool(true));
    }
}

/// Compares the parts of a definition that cannot be changed in place without anyone noticing.
fn check(database: &Database, table: &str, definition: &Value) -> Result<(), Error> {
    let existing = describe(database, table)?;
    let differs = |what| {
        Err(Error::TableDiffers {
            table: table.to_owned(),
            what,
        })
    };
    if existing["KeySchema"] != definition["KeySchema"] {
        return differs("key");
    }
    if indexes(&existing) != indexes(definition) {
        return differs("set of indexes");
    }
    if existing["StreamSpecification"]["StreamViewType"]
        != definition["StreamSpecification"]["StreamViewType"]
    {
        return differs("stream");
    }
    Ok(())
}

/// Lists the secondary indexes of a table: name, key and projection, by name.
fn indexes(table: &Value) -> Vec<[Value; 3]> {
    let mut indexes: Vec<_> = ["GlobalSecondaryIndexes", "LocalSecondaryIndexes"]
        .iter()
        .filter_map(|kind| table[kind].as_array())
        .flatten()
        .map(|index| {
            [
                index["IndexName"].clone(),
                index["KeySchema"].clone(),
                projection(&index["Projection"]),
            ]
        })
        .collect();
    indexes.sort_by(|left, right| left[0].as_str().cmp(&right[0].as_str()));
    indexes
}

/// A projection lists its attributes in no particular order.
fn projection(projection: &Value) -> Value {
    let mut attributes: Vec<&str> = projection["NonKeyAttributes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    attributes.sort_unstable();
    json!([projection["ProjectionType"], attributes])
}

fn describe(database: &Database, table: &str) -> Result<Value, Error> {
    let request = DescribeTableRequest {
        table_name: table.to_owned(),
    };
    let response = database
        .describe_table(request)
        .map_err(failed(format!("describing the table `{table}`")))?;
    let mut response = serde_json::to_value(&response).map_err(|error| Error::Definition {
        reason: error.to_string(),
    })?;
    Ok(response["Table"].take())
}

/// Names the attribute that expires items; DynamoDB refuses to be told twice, so it asks first.
fn set_expiry(database: &Database, table: &str, expiry: &Value) -> Result<(), Error> {
    let metadata = database
        .get_table_metadata(table)
        .map_err(failed(format!(
            "reading the settings of the table `{table}`"
        )))?
        .ok_or_else(|| Error::Definition {
            reason: format!("the table `{table}` was deleted meanwhile"),
        })?;
    let enabled = expiry["Enabled"].as_bool().unwrap_or(true);
    let attribute = expiry["AttributeName"].as_str();
    if metadata.ttl_enabled == enabled
        && (!enabled || metadata.ttl_attribute.as_deref() == attribute)
    {
        return Ok(());
    }
    let request = json!({ "TableName": table, "TimeToLiveSpecification": expiry });
    let request = serde_json::from_value(request).map_err(|error| Error::Definition {
        reason: error.to_string(),
    })?;
    database
        .update_time_to_live(request)
        .map(|_| ())
        .map_err(failed(format!(
            "setting the time to live of the table `{table}`"
        )))
}
