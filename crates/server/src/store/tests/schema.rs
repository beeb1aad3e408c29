//! That both databases have the same schema.

use super::Folder;
use super::cluster::Cluster;
use crate::store::sql::Engine;
use crate::store::{Location, database};

/// Columns, keys and indexes of a database, by table.
fn schema(location: &Location) -> Vec<String> {
    let connection = database::create_or_open(location).unwrap();
    let columns = match connection.engine() {
        Engine::Sqlite(_) => {
            "SELECT m.name || '.' || p.name || CASE WHEN p.\"notnull\" <> 0 OR p.pk <> 0 THEN ' required' ELSE '' END
                    || ' ' || CASE p.type WHEN 'INTEGER' THEN 'bigint' WHEN 'BLOB' THEN 'bytea' WHEN 'REAL'
                              THEN 'double precision' ELSE lower(p.type) END || ' key ' || p.pk
             FROM sqlite_schema m JOIN pragma_table_info(m.name) p WHERE m.type = 'table' ORDER BY 1"
        }
        Engine::Postgres(_) => {
            "SELECT (c.relname || '.' || a.attname || CASE WHEN a.attnotnull THEN ' required' ELSE '' END || ' '
                    || format_type(a.atttypid, NULL) || ' key ' || coalesce((SELECT array_position(i.indkey::int2[],
                       a.attnum) + 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary), 0)) COLLATE \"C\"
             FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
             WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname <> 'wardline_schema'
             ORDER BY 1"
        }
    };
    let indexes = match connection.engine() {
        Engine::Sqlite(_) => "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY 1",
        Engine::Postgres(_) => {
            "SELECT c.relname::text COLLATE \"C\" FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
             WHERE c.relnamespace = 'public'::regnamespace AND NOT EXISTS
                   (SELECT 1 FROM pg_constraint o WHERE o.conindid = i.indexrelid) ORDER BY 1"
        }
    };
    let read = |select| connection.read(select, &[], |row| row.get::<String>(0)).unwrap();
    [read(columns), read(indexes)].concat()
}

#[test]
fn both_databases_have_the_same_schema_whichever_step_they_come_from() {
    let (folder, cluster) = (Folder::new(), Cluster::start());
    let expected = schema(&folder.1);
    assert!(expected.len() > 80, "{expected:?}");
    for steps in 0..=database::known() as usize {
        let file = Location::File(folder.path().join(format!("{steps}.db")));
        for location in [file, cluster.database()] {
            database::made_by(&location, steps);
            assert_eq!(schema(&location), expected, "after {steps} steps, {location}");
        }
    }
}
