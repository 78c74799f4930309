"""Words shared by every package: ids, roles and permissions, REST bodies. Data only, no behaviour."""
