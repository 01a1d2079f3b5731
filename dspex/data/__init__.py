"""Tables in and out: files, data frames and datasets as rows of inputs, and outputs beside them.

Importing this package loads no other library. Files are read and written in pieces, so their size does not matter::

    formats            the format of a file, by its name
    row_source         what all readers of files have in common; `open_source`
    text_input         bytes to lines and text: encodings, byte-order marks, gzip
    delimited          CSV and TSV, also CSV that arrives in parts
    json_lines_file    JSON lines
    parquet_file       Parquet, with pyarrow
    cell_text          values as text, and text as values
    input_columns      which column each input field is read from, and how its cells become values
    arrow_types        the Arrow type of each type of the signature language
    column_names       names of the columns of a table, also of those that are added
    table_writers      rows with outputs beside them, written to any of these formats
    frames             data frames (with narwhals), Hugging Face datasets and dspy.Example
    replaced_file      files that are replaced as a whole
"""
