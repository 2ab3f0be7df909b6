// Package storagemigration carries out StorageVersionMigrations (KEP-4192): every object of a resource is written again as it is, so that what is
// stored is in the version that the server stores today. An object that is stored so already costs no write.
package storagemigration
