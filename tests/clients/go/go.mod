module bidstream-svc/stock-client

go 1.21
