"""What survives a restart: contracts, SQL tables and stores, migrations, and memory versions as their reference."""
