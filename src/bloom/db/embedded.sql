-- Makes the one database of BLOOM, in single-user mode, before the server runs for the first time.
CREATE DATABASE bloom TEMPLATE template0 ENCODING 'UTF8';
