from blocks.postgres.address import Address


def test_two_majors_serve_side_by_side(database: Address, database15: Address) -> None:
    majors: list[int] = []
    for address in (database, database15):
        with address.connect() as connection:
            majors.append(connection.info.server_version // 10000)
    assert majors == [17, 15]
